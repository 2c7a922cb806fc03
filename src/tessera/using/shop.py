"""What is known of the items of a model: those that it was trained on, and those that were added since.

Added items lie in a folder of their own, since the outputs of the pipeline belong to DVC: items.parquet, ids.parquet
and vectors/MODALITY.parquet hold what the pipeline's tables do, for items that are numbered on from those.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from tessera.artifacts import read_json, read_table, whole_folder, write_json, write_table
from tessera.errors import CheckpointError
from tessera.params import Params, load_params
from tessera.parquet import parquet_schema
from tessera.recommender.corpus import codes_by_modality
from tessera.recommender.model import ids_fingerprint
from tessera.recommender.vocabulary import Tokens, Vocabulary
from tessera.schemas import IDS, ITEMS, VECTORS
from tessera.using.parts import ADDED, Parts, find_parts, read_manifest, require_added

#: The format of a folder of added items.
FORMAT: Final = 1


class Shop(NamedTuple):
    """The items of a model, N that it was trained on and A that were added."""

    parts: Parts
    added: Path | None  # the folder with added items
    params: Params
    words: Vocabulary
    items: pl.DataFrame  # ITEMS, N + A rows
    ids: pl.DataFrame  # IDS
    trained: int  # N

    @property
    def tokens(self) -> dict[str, Tokens]:
        """The tokens (N + A, L) of every ID that items have."""
        return self.words.all_tokens(codes_by_modality(self.ids, self.words.modalities))

    @property
    def trained_tokens(self) -> dict[str, Tokens]:
        """The tokens (N, L) of those that the model was trained on."""
        return {name: tokens[: self.trained] for name, tokens in self.tokens.items()}

    def vectors(self, modality: str) -> pl.DataFrame:
        """Return the vectors of all items in a modality: a table of VECTORS, empty where it is not used."""
        return pl.concat([read_table(self.parts[f"{modality}_vectors"], VECTORS), *self.added_vectors(modality)])

    def vector_width(self, modality: str) -> int:
        """Return D of the vectors in a modality, of which none is read."""
        schema: Mapping[str, Any] = parquet_schema(self.parts[f"{modality}_vectors"])
        return int(schema["vector"].size)

    def added_vectors(self, modality: str) -> list[pl.DataFrame]:
        """Return the vectors of added items in a modality: one table of VECTORS, or none where there are none."""
        file = None if self.added is None else vectors_file(self.added, modality)
        return [] if file is None or not file.is_file() else [read_table(file, VECTORS)]


def load_shop(folder: Path, *, added: Path | None = None) -> Shop:
    """Return the items of the model in folder, an export or a repository, and those in the folder added.

    Raises CheckpointError where added holds items for another model.
    """
    parts = find_parts(folder)
    params = load_params(parts["params"])
    words = Vocabulary.from_json(read_json(parts["vocabulary"]))
    items, ids = read_table(parts["items"], ITEMS), read_table(parts["ids"], IDS)
    shop = Shop(parts, None, params, words, items, ids, parts.trained or items.height)
    if added is None:
        return shop
    require_added(added)
    document = read_manifest(added / ADDED, kind="added items", form=FORMAT)
    if document["after"] != _after(shop):
        raise CheckpointError(
            f"{added}: expected items that were added to those of {folder}, found those of another model"
        )
    return shop._replace(
        added=added,
        items=pl.concat([items, read_table(added / "items.parquet", ITEMS)]),
        ids=pl.concat([ids, read_table(added / "ids.parquet", IDS)]),
    )


def write_added(
    folder: Path, shop: Shop, *, items: pl.DataFrame, ids: pl.DataFrame, vectors: dict[str, pl.DataFrame]
) -> None:
    """Write items after those of shop, with their IDs and vectors, into folder, beside those that shop has from there.

    The folder appears, or is replaced, as a whole.
    """
    before = load_shop(shop.parts.folder)
    first = before.items.height
    tables = {"items": pl.concat([shop.items, items]), "ids": pl.concat([shop.ids, ids])}
    with whole_folder(folder) as partial:
        for name, schema in (("items", ITEMS), ("ids", IDS)):
            write_table(partial / f"{name}.parquet", tables[name].filter(pl.col("item") >= first), schema)
        for name, table in vectors.items():
            write_table(vectors_file(partial, name), pl.concat([*shop.added_vectors(name), table]), VECTORS)
        write_json(partial / ADDED, {"format": FORMAT, "after": _after(before)})


def vectors_file(folder: Path, modality: str) -> Path:
    """Return where a folder of added items has their vectors in a modality."""
    return folder / "vectors" / f"{modality}.parquet"


def _after(shop: Shop) -> str:
    """Return a digest of the IDs of all items of shop, which is without added ones."""
    return ids_fingerprint(shop.tokens)
