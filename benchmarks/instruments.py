"""The work that most benchmarks do: users, items and semantic IDs of the size of Amazon 2018 Musical Instruments.

The real ones where their folder is at hand (reviews as published, IDs as published with MQL4GRec), and drawn ones of
the same numbers and a like shape where it is not.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from paper import PAPER

from tessera.items.amazon import read_reviews
from tessera.items.filtering import counted, in_order, numbered
from tessera.items.splits import leave_one_out
from tessera.recommender.corpus import codes_by_modality
from tessera.recommender.vocabulary import Vocabulary
from tessera.tasks import parse_tasks

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "instruments"
REVIEWS = "Musical_Instruments.json.gz"
IDS = "semantic_ids.parquet"

MODALITIES = tuple(PAPER.modalities)
USERS, ITEMS, INTERACTIONS = 17_112, 6_250, 136_226
LEVELS, CODES = PAPER.quant.levels, PAPER.quant.codebook_size
MAX_HISTORY = PAPER.corpus.max_history
SHORTEST = 5


class Instruments(NamedTuple):
    """Interactions (user, item, position, split) and the codes (N, L) of each modality, row i those of item i."""

    interactions: pl.DataFrame
    codes: dict[str, NDArray[np.integer[Any]]]
    source: str  # "published" or "drawn"

    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary of all published tasks."""
        return Vocabulary.of(parse_tasks(PAPER.corpus.tasks, PAPER.modalities), self.codes, codebook_size=CODES)


def instruments(folder: Path = FOLDER) -> Instruments:
    """Return the data set in folder, or one drawn like it where there is none."""
    if not (folder / REVIEWS).is_file():
        return _drawn()
    reviews, _ = read_reviews(folder / REVIEWS, form="amazon2018", max_malformed=0.0)
    interactions = leave_one_out(in_order(numbered(reviews), ties="hash"))
    keys = counted(interactions, "item").select("key", number="item")
    ids = pl.read_parquet(folder / IDS).join(keys, left_on="item", right_on="key")
    codes = codes_by_modality(ids.select("modality", "codes", item="number"), MODALITIES)
    return Instruments(interactions.select("user", "item", "position", "split"), dict(codes), "published")


def times_larger(one: Instruments, factor: int) -> Instruments:
    """Return factor copies of one, each with users of its own, over the same items."""
    users = one.interactions["user"].n_unique()
    copies = [one.interactions.with_columns(user=pl.col("user") + copy * users) for copy in range(factor)]
    return one._replace(interactions=pl.concat(copies))


def _drawn() -> Instruments:
    draw = np.random.default_rng(0)
    longer = draw.geometric(1 / (INTERACTIONS / USERS - SHORTEST + 1), USERS) - 1
    lengths = SHORTEST + longer
    popularity = 1 / np.arange(1, ITEMS + 1) ** 0.7
    interactions = pl.DataFrame(
        {
            "user": np.repeat(np.arange(USERS, dtype=np.uint32), lengths),
            "item": draw.choice(ITEMS, lengths.sum(), p=popularity / popularity.sum()).astype(np.uint32),
        }
    ).with_columns(position=pl.int_range(pl.len(), dtype=pl.UInt32).over("user"))
    codes = {modality: distinct_ids(ITEMS, draw=draw) for modality in MODALITIES}
    return Instruments(leave_one_out(interactions), codes, "drawn")


def distinct_ids(items: int, *, draw: np.random.Generator) -> NDArray[np.integer[Any]]:
    """Return codes (N, L) for items, uniform and no two alike."""
    numbers = draw.choice(CODES**LEVELS, items, replace=False)
    return (numbers[:, None] // CODES ** np.arange(LEVELS)[::-1] % CODES).astype(np.uint16)
