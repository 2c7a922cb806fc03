"""Codes for all items, from a trained quantizer."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tessera.codes.collisions import Paths
from tessera.codes.quantizer import CrossModalQuantizer, rows_in_block
from tessera.errors import CheckpointError


@torch.no_grad()
def encode(
    quantizer: CrossModalQuantizer, modality: str, vectors: Tensor | NDArray[np.float32], *, device: torch.device
) -> Paths:
    """Return the codes of vectors (N, D) and their paths, batch by batch.

    Every batch has the same number of rows (the last one reaches back), so that equal vectors get equal residuals:
    matrix products of other shapes may round otherwise.

    Raises CheckpointError where the quantizer was trained on vectors of another width, or without this modality.
    """
    vectors = torch.as_tensor(vectors)
    part = quantizer.of(modality).to(device).eval()
    levels, size, width = part.codebooks.shape
    if vectors.shape[1] != part.widths[0]:
        raise CheckpointError(
            f"quantizer: expected {modality} vectors of width {part.widths[0]}, found {vectors.shape[1]}"
        )
    codes = torch.empty(len(vectors), levels, dtype=torch.int64)
    residuals = torch.empty(len(vectors), width)
    rows = min(len(vectors), rows_in_block(max(size, *part.widths, width)))
    for start in range(0, len(vectors), max(rows, 1)):
        batch = slice(min(start, len(vectors) - rows), min(start + rows, len(vectors)))
        found = part.quantise(part.latents(vectors[batch].to(device)))
        codes[batch] = found[0].cpu()
        residuals[batch] = found[1][max(levels - 2, 0)].cpu()
    return Paths(codes.numpy(), residuals.numpy(), part.codebooks.cpu().numpy())
