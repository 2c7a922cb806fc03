"""Codes for all items, from a trained quantizer."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from tessera.codes.absent import lend_paths
from tessera.codes.collisions import Paths
from tessera.codes.given import quantizer_of_each
from tessera.codes.quantizer import CrossModalQuantizer
from tessera.codes.rows import Rows, rows_in_block
from tessera.errors import CheckpointError


def quantised_paths(
    quantizer: Path,
    given: Mapping[str, pl.DataFrame],
    vectors: Mapping[str, Rows],
    present: Mapping[str, NDArray[np.bool_]],
    *,
    codebook_size: int,
    device: torch.device,
) -> dict[str, Paths]:
    """Return the paths of all items in each modality, from its vectors (N, D) and which are present (N,).

    Codebooks that are given, by modality, stand where those in the folder quantizer would. Who lacks a modality takes
    the path that `lend_paths` finds.

    Raises CheckpointError where the quantizer or given codebooks are not as they should be.
    """
    of = quantizer_of_each(list(vectors), quantizer, given, codebook_size=codebook_size)
    encoded = {name: encode(of[name], name, rows, device=device) for name, rows in vectors.items()}
    return lend_paths(encoded, vectors, present)


@torch.no_grad()
def encode(quantizer: CrossModalQuantizer, modality: str, vectors: Rows, *, device: torch.device) -> Paths:
    """Return the codes of vectors (N, D) and their paths, batch by batch.

    Every batch has the same number of rows (the last one reaches back), so that equal vectors get equal residuals:
    matrix products of other shapes may round otherwise.

    Raises CheckpointError where the quantizer was trained on vectors of another width, or without this modality, or
    gives residuals that are no numbers.
    """
    part = quantizer.of(modality).to(device).eval()
    levels, size, width = part.codebooks.shape
    count = vectors.shape[0]
    if vectors.shape[1] != part.widths[0]:
        raise CheckpointError(
            f"quantizer: expected {modality} vectors of width {part.widths[0]}, found {vectors.shape[1]}"
        )
    codes = torch.empty(count, levels, dtype=torch.int64)
    residuals = torch.empty(count, width)
    rows = min(count, rows_in_block(max(size, *part.widths, width)))
    for start in range(0, count, max(rows, 1)):
        batch = slice(min(start, count - rows), min(start + rows, count))
        found = part.quantise(part.latents(vectors[batch].to(device)))
        codes[batch] = found[0].cpu()
        residuals[batch] = found[1][max(levels - 2, 0)].cpu()
    if not residuals.isfinite().all():
        broken = int((~residuals.isfinite()).any(dim=1).sum())
        raise CheckpointError(
            f"quantizer: expected finite residuals of {modality}, found others in {broken} of {count} items; a lower "
            "quant.lr may help"
        )
    return Paths(codes.numpy(), residuals.numpy(), part.codebooks.cpu().numpy())
