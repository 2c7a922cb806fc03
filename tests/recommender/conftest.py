"""A small world to train in: users who go round a circle of items, and IDs that tell an item's place on it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tessera.recommender.batches import Samples, samples_of
from tessera.recommender.corpus import histories, samples
from tessera.recommender.model import Sizes, new_model
from tessera.recommender.readers import TorchReader
from tessera.recommender.vocabulary import Tokens, Vocabulary
from tessera.tasks import Layout, parse_tasks

TINY = Sizes(
    d_model=16, d_ff=32, d_kv=8, heads=2, encoder_layers=1, decoder_layers=2, dropout=0.1, initializer_factor=1.0
)
#: As small as fills registers of 16 floats.
FILLING = TINY._replace(d_kv=16)
TASKS = [
    "history text -> text",
    "history image -> image",
    "item text -> image",
    "item image -> text",
    "history text -> image",
    "history image -> text",
]


class World(NamedTuple):
    interactions: pl.DataFrame
    codes: dict[str, NDArray[np.uint16]]
    vocabulary: Vocabulary
    tokens: dict[str, Tokens]
    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame

    def ids(self) -> dict[str, Tensor]:
        return {modality: torch.from_numpy(table) for modality, table in self.tokens.items()}

    def samples(self) -> Samples:
        return samples_of(self.train)


def circle_interactions(*, users: int, items: int, length: int, seed: int) -> pl.DataFrame:
    """Each user starts somewhere and takes one, two or three steps on at a time."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, 4, (users, length))
    steps[:, 0] = rng.integers(0, items, users)
    table = pl.DataFrame(
        {
            "user": np.repeat(np.arange(users, dtype=np.uint32), length),
            "item": (steps.cumsum(axis=1) % items).astype(np.uint32).ravel(),
            "position": np.tile(np.arange(length, dtype=np.uint32), users),
        }
    )
    left = pl.lit(length - 1, pl.Int64) - pl.col("position")
    split = pl.when(left == 0).then(pl.lit("test")).when(left == 1).then(pl.lit("valid")).otherwise(pl.lit("train"))
    return table.with_columns(time=pl.col("position").cast(pl.Int64), split=split)


@pytest.fixture
def world() -> Callable[..., World]:
    def make(
        *,
        users: int = 60,
        items: int = 27,
        length: int = 7,
        tasks: list[str] = TASKS,
        layout: Layout = "separate",
        taught: int = 0,
        seed: int = 0,
    ) -> World:
        """Return a world; training histories have up to `taught` further targets, whatever these are."""
        interactions = circle_interactions(users=users, items=items, length=length, seed=seed)
        place = np.arange(items)
        codes = {
            "text": np.stack([place // 9, place // 3 % 3, place % 3], axis=1).astype(np.uint16),
            "image": np.stack([place % 3, place // 9, place // 3 % 3], axis=1).astype(np.uint16),
        }
        known = parse_tasks(tasks, list(codes), layout=layout)
        vocabulary = Vocabulary.of(known, codes, codebook_size=3, layout=layout)
        tokens = vocabulary.all_tokens(codes)
        count = len(histories(interactions, split="train", max_history=4).targets)
        further = np.random.default_rng(1).integers(-1, items, (count, taught)).astype(np.int32)

        def told(split: str) -> pl.DataFrame:
            more = further if split == "train" else None
            tables = samples(interactions, codes, vocabulary, split=split, max_history=4, taught=more)
            return pl.concat([table for _, table in tables])

        tables = map(told, ("train", "valid", "test"))
        return World(interactions, codes, vocabulary, tokens, *tables)

    return make


def apart(samples: Samples) -> Samples:
    """The same samples, each with a source of its own."""
    own = torch.repeat_interleave(torch.arange(len(samples.source.lengths)), samples.firsts.diff())
    return samples._replace(source=samples.source.take(own), firsts=torch.arange(len(own) + 1))


@pytest.fixture(params=["torch", "lanes"])
def reader(request):
    """Each of the readers in turn."""
    if request.param == "torch":
        return TorchReader
    from tessera.recommender.lane_reader import LaneReader  # only now: it compiles its kernels

    return LaneReader


@pytest.fixture
def model():
    def make(world: World, *, sizes: Sizes = TINY, seed: int = 0):
        return new_model(world.vocabulary, world.tokens, sizes, seed=seed)

    return make
