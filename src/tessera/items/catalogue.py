"""What is known of each item: its text as a reader would see it, and whether there is a picture."""

from collections.abc import Sequence

import polars as pl

from tessera.errors import ParamsError
from tessera.items.texts import clean

#: How a described item shows that it has a modality.
PRESENCE: dict[str, pl.Expr] = {
    "text": (pl.col("title") != "") | (pl.col("description") != ""),
    "image": pl.col("has_picture"),
}


def described(keys: pl.Series, *, items: pl.DataFrame, statuses: pl.DataFrame) -> pl.DataFrame:
    """Return key, title, description, categories, has_picture, has_metadata: one row a key, in the order of keys.

    items are raw (key, title, description, categories), statuses those of the pictures (key, status). An item of
    which nothing is known has empty texts and no categories. Where a key occurs twice the first row counts.
    """
    wanted = keys.to_frame("key")
    metadata = items.select("key", "title", "description", "categories", has_metadata=True)
    pictures = statuses.select("key", has_picture=pl.col("status") == "ok")
    for known in (metadata, pictures):
        first = known.join(wanted, on="key", how="semi").unique("key", keep="first", maintain_order=True)
        wanted = wanted.join(first, on="key", how="left", maintain_order="left")
    return wanted.with_columns(
        clean(wanted["title"]),
        clean(wanted["description"]),
        pl.col("categories").fill_null([]),
        pl.col("has_metadata", "has_picture").fill_null(False),
    )


def present_keys(catalogue: pl.DataFrame, required: Sequence[str]) -> dict[str, pl.Series]:
    """Return for each required modality the keys of the described items that have it.

    Raises ParamsError where a modality is none that an item can be seen to have.
    """
    unknown = [modality for modality in required if modality not in PRESENCE]
    if unknown:
        raise ParamsError(f"filter.required: expected modalities of {sorted(PRESENCE)}, found {unknown[0]!r}")
    return {modality: catalogue.filter(PRESENCE[modality])["key"] for modality in required}


def lacking(catalogue: pl.DataFrame) -> dict[str, int]:
    """Return how many described items lack each modality, and how many are in no metadata at all."""
    counts = {modality: int(catalogue.select((~has).sum()).item()) for modality, has in PRESENCE.items()}
    return {"metadata": int((~catalogue["has_metadata"]).sum()), **counts}
