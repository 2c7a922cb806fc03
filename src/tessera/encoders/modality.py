"""What a stage does that embeds the items of one modality, whatever embeds them."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from tessera.artifacts import whole_folder, write_json, write_table
from tessera.encoders.embedded import Embedded, write_vectors
from tessera.items.fitted import Fitted, save_fitted
from tessera.items.impairing import Impairment, impaired, remaining
from tessera.items.vectors import fill_absent, vector_metrics
from tessera.params import Image, Text
from tessera.runtime import is_main_process
from tessera.schemas import VECTORS


def write_embedded(
    catalogue: pl.DataFrame,
    section: Text | Image,
    embed: Callable[[pl.DataFrame], Embedded],
    *,
    modality: str,
    vectors: Path,
    encoder: Path,
    metrics: Path,
) -> None:
    """Write the vectors that embed gives the items of catalogue, what its encoder has learned, and the counts.

    It is asked for those items alone that section leaves the modality. Of several processes, all of which embed, the
    first one writes.
    """
    keys = catalogue["key"]
    kept = remaining(keys, missing=section.missing, seed=section.seed, modality=modality)
    found = embed(catalogue.filter(kept))
    if not is_main_process():
        return
    impairment = Impairment(**section.model_dump(include=set(Impairment._fields)))
    made = impaired(found.vectors, kept, impairment, keys=keys, modality=modality)
    filled = fill_absent(made.vectors, modality=modality)
    write_vectors(vectors, catalogue["item"], filled)
    with whole_folder(encoder) as folder:
        save_fitted(found.fitted, folder)
    write_json(metrics, vector_metrics(filled) | found.counts | made.counts)


def write_nothing(*, vectors: Path, encoder: Path, metrics: Path) -> None:
    """Write what stands for the vectors of a modality that the system does not use."""
    if not is_main_process():
        return
    write_table(vectors, pl.DataFrame(schema=VECTORS), VECTORS)
    with whole_folder(encoder) as folder:
        save_fitted(Fitted("none"), folder)
    write_json(metrics, {"items": 0})
