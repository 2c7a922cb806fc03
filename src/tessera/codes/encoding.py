"""Codes for all items, from a trained quantizer."""

import torch

from tessera.codes.collisions import Paths
from tessera.codes.quantizer import CrossModalQuantizer
from tessera.codes.rows import Rows, rows_in_block
from tessera.errors import CheckpointError


@torch.no_grad()
def encode(quantizer: CrossModalQuantizer, modality: str, vectors: Rows, *, device: torch.device) -> Paths:
    """Return the codes of vectors (N, D) and their paths, batch by batch.

    Every batch has the same number of rows (the last one reaches back), so that equal vectors get equal residuals:
    matrix products of other shapes may round otherwise.

    Raises CheckpointError where the quantizer was trained on vectors of another width, or without this modality.
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
    return Paths(codes.numpy(), residuals.numpy(), part.codebooks.cpu().numpy())
