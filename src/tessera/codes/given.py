"""Codebooks that an embedding stage learned together with its vectors: they stand where the quantizer's would.

A table of such codebooks has the columns level, code and vector, and no rows where codes are learned from the vectors.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tessera.codes.checkpoint import load
from tessera.codes.quantizer import CrossModalQuantizer, with_codebooks
from tessera.errors import CheckpointError


def quantizer_of_each(
    modalities: Sequence[str], trained: Path, given: Mapping[str, pl.DataFrame], *, codebook_size: int
) -> dict[str, CrossModalQuantizer]:
    """Return the quantizer of each modality: of its given codebooks where there are some, else the one in trained.

    The folder trained is not read where all are given.

    Raises CheckpointError where codebooks are not as they should be: see given_codebooks and `checkpoint.load`.
    """
    own = {
        name: with_codebooks(name, given_codebooks(table, modality=name, codebook_size=codebook_size))
        for name, table in given.items()
        if name in modalities and table.height
    }
    learned = [name for name in modalities if name not in own]
    return own | dict.fromkeys(learned, load(trained, codebook_size=codebook_size)) if learned else own


def given_codebooks(table: pl.DataFrame, *, modality: str, codebook_size: int) -> Tensor:
    """Return the codebooks (L, M, D) in a table of level, code and vector, which is not empty.

    Raises CheckpointError where a level has not the codes 0 to M = codebook_size - 1.
    """
    levels = int(table["level"].max()) + 1  # type: ignore[arg-type]
    ordered = table.sort("level", "code")
    wanted = np.stack(np.divmod(np.arange(levels * codebook_size), codebook_size), 1)
    if not np.array_equal(ordered.select("level", "code").to_numpy(), wanted):
        raise CheckpointError(
            f"{modality}: expected codebooks of {levels} levels with {codebook_size} codes each, as "
            f"quant.codebook_size says, found {table.height} codes"
        )
    vectors = torch.from_numpy(ordered["vector"].to_numpy(writable=True))
    return vectors.view(levels, codebook_size, -1)
