"""From interactions and IDs to samples: what the T5 reads and what it should say.

Every prefix of a user's training sequence is a sample of each history task; every item is one of each item task. The
validation item and the test item are told from all that the user had before. A training sample holds training
interactions alone; item tasks hold every item's IDs, since those are known before anyone buys. Where a teacher names
further targets of training histories (`teaching`), each is a sample of each history task, too; those of one history
stand side by side.

Every source ends with END, as a T5 tokenizer would have it: a T5 knows only how far tokens are apart, and END is where
it can tell which item is the last.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tessera.errors import DataError
from tessera.recommender.vocabulary import END, Tokens, Vocabulary
from tessera.tasks import Task

SPLITS = ("train", "valid", "test")

#: Samples of a table: some hundred megabytes where histories are long.
BLOCK = 2**20

#: Which of the samples.
Selection = slice | NDArray[np.int64]


class Histories(NamedTuple):
    """Sequences of items, and where in them the samples are; S samples."""

    items: NDArray[np.uint32]  # (T,) all users' items, user after user, in order of position
    users: NDArray[np.uint32]  # (S,)
    targets: NDArray[np.int64]  # (S,) place of the target in items
    lengths: NDArray[np.int64]  # (S,) items of history before the target

    @property
    def target_items(self) -> NDArray[np.uint32]:
        """The target of each sample, (S,)."""
        return self.items[self.targets]

    @property
    def before(self) -> NDArray[np.uint32]:
        """All histories, one after the other: the items (sum of lengths,) before each target."""
        return self.items[ranges(self.targets - self.lengths, self.lengths)]

    def block(self, samples: Selection) -> "Histories":
        """Return some of the samples."""
        return Histories(self.items, self.users[samples], self.targets[samples], self.lengths[samples])


class Told(NamedTuple):
    """Targets of histories, those of one side by side, its own first; S samples."""

    histories: Selection  # (S,)
    items: NDArray[np.uint32]  # (S,)
    is_taught: NDArray[np.bool_]  # (S,) whether a teacher named the item


class Ragged(NamedTuple):
    """Lists of unequal length: row i is values[offsets[i] : offsets[i + 1]]."""

    values: Tokens
    offsets: NDArray[np.int64]


def codes_by_modality(ids: pl.DataFrame, modalities: Sequence[str]) -> dict[str, NDArray[np.uint16]]:
    """Return each modality's codes (N, L), row i those of item i, from a table with columns item, modality and codes.

    Raises DataError where a modality has no IDs, lacks some item's, or has IDs of unequal length.
    """
    found = {}
    for modality in modalities:
        rows = ids.filter(pl.col("modality") == modality).sort("item")
        lengths = rows["codes"].list.len().unique().to_list()
        if len(lengths) != 1 or rows["item"].to_list() != list(range(rows.height)):
            raise DataError(
                f"IDs of {modality}: expected one of equal length for each item 0, 1, 2, ..., "
                f"found {rows.height} of lengths {lengths}"
            )
        found[modality] = rows["codes"].list.to_array(lengths[0]).to_numpy()
    if len({len(codes) for codes in found.values()}) > 1:
        counts = {modality: len(codes) for modality, codes in found.items()}
        raise DataError(f"IDs: expected as many in each modality, found {counts}")
    return found


def histories(interactions: pl.DataFrame, *, split: str, max_history: int) -> Histories:
    """Return the samples of split: targets in it with the items before them, at most the last max_history.

    interactions has columns user, item, position and split. Before a training target only training items count; before
    others all do. A target without a history is no sample.

    >>> table = pl.DataFrame({"user": [0] * 4, "item": [7, 8, 9, 7], "position": range(4),
    ...                       "split": ["train", "train", "valid", "test"]})
    >>> histories(table, split="test", max_history=2).lengths  # of 7, 8, 9
    array([2])
    """
    known = interactions.filter(pl.col("split") == split) if split == "train" else interactions
    ordered = known.sort("user", "position")
    users = ordered["user"].to_numpy()
    rows = np.arange(len(users))
    is_first = np.diff(users.astype(np.int64), prepend=-1) > 0
    places = rows - np.maximum.accumulate(np.where(is_first, rows, 0))  # of each row among its user's
    targets = np.flatnonzero((ordered["split"] == split).to_numpy() & (places > 0))
    return Histories(
        items=ordered["item"].to_numpy(),
        users=users[targets],
        targets=targets,
        lengths=np.minimum(places[targets], max_history),
    )


def samples(
    interactions: pl.DataFrame,
    codes: Mapping[str, NDArray[np.integer[Any]]],
    vocabulary: Vocabulary,
    *,
    split: str,
    max_history: int,
    taught: NDArray[np.int32] | None = None,
) -> Iterator[tuple[Task, pl.DataFrame]]:
    """Yield each task with tables of its samples: user, task, item (the target), taught, source and target tokens.

    A table holds at most BLOCK of them. codes maps a modality to its codes (N, L), row i those of item i. Item tasks
    belong to the training split alone. taught (S, R) has further targets for each of the split's histories, negative
    where there is none; the column tells these from the own ones.

    Raises DataError where the split has no sample that a task could tell.
    """
    tokens = vocabulary.all_tokens(codes)
    found = histories(interactions, split=split, max_history=max_history)
    if vocabulary.tasks and not len(found.targets):
        raise DataError(f"{split} samples: expected at least one target with a history, found none")
    further = np.empty((len(found.targets), 0), np.int32) if taught is None else taught
    if len(further) != len(found.targets):
        raise ValueError(f"taught: expected a row for each of {len(found.targets)} histories, found {len(further)}")
    for task in vocabulary.tasks:
        if task.kind == "history":
            is_drawn = _drawn(task, len(found.targets))
            for block in _blocks(len(found.targets), most=max(1, BLOCK // (1 + further.shape[1]))):
                of_block = found.block(block)
                told = _told(of_block, further[block], is_drawn=is_drawn[block])
                if len(told.items):
                    yield task, _history_samples(task, of_block, told, tokens, vocabulary)
        elif split == "train":
            for block in _blocks(len(tokens[task.source]), most=BLOCK):
                yield task, _item_samples(task, block, tokens, vocabulary)


def _told(found: Histories, further: NDArray[np.int32], *, is_drawn: NDArray[np.bool_]) -> Told:
    """Return what the histories that are drawn (S,) are told: their own targets, and the further ones (S, R)."""
    if not further.shape[1] and is_drawn.all():  # nothing to be looked for
        return Told(slice(None), found.target_items, np.zeros(len(found.targets), np.bool_))
    targets = np.column_stack([found.target_items.astype(np.int64), further])
    is_told = (targets >= 0) & is_drawn[:, None]
    rows, columns = np.nonzero(is_told)
    return Told(rows, targets[is_told].astype(np.uint32), columns > 0)


def _drawn(task: Task, count: int) -> NDArray[np.bool_]:
    """Return which of so many histories are samples of task: all, or those that the task it shares them with has not.

    The draws are the same for both and for all seeds. In MQL4GRec's released code they are made anew in each epoch.
    """
    if not task.is_shared:
        return np.ones(count, np.bool_)
    draws = np.random.default_rng(0).random(count) < 1 / 2
    return draws if task.source < task.target else ~draws


def _blocks(count: int, *, most: int) -> Iterator[slice]:
    return (slice(start, min(start + most, count)) for start in range(0, count, most))


def _history_samples(
    task: Task, found: Histories, told: Told, tokens: Mapping[str, Tokens], vocabulary: Vocabulary
) -> pl.DataFrame:
    mine = found.block(told.histories)
    return _table(
        task,
        users=mine.users,
        items=told.items,
        is_taught=told.is_taught,
        source=history_sources(task, mine.before, mine.lengths, tokens, vocabulary),
        target=_ended(tokens[task.target][told.items]),
    )


def history_sources(
    task: Task,
    rows: NDArray[np.uint32],
    lengths: NDArray[np.int64],
    tokens: Mapping[str, Tokens],
    vocabulary: Vocabulary,
) -> Ragged:
    """Return what the T5 reads, in a history task, of S histories: rows holds their items, lengths (S,) how many."""
    source = tokens[task.source].take(rows, axis=0)  # (sum of lengths, L)
    return _framed(vocabulary.prefix(task), source.ravel(), lengths * source.shape[1])


def _item_samples(task: Task, items: slice, tokens: Mapping[str, Tokens], vocabulary: Vocabulary) -> pl.DataFrame:
    source = tokens[task.source][items]
    return _table(
        task,
        users=None,
        items=np.arange(items.start, items.stop, dtype=np.uint32),
        is_taught=np.zeros(len(source), np.bool_),
        source=_framed(vocabulary.prefix(task), source.ravel(), np.full(len(source), source.shape[1])),
        target=_ended(tokens[task.target][items]),
    )


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return starts[0], ..., starts[0] + lengths[0] - 1, starts[1], ...: all ranges, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(before - starts, lengths)


def _framed(prefix: tuple[int, ...], values: Tokens, lengths: NDArray[np.int64]) -> Ragged:
    """Return the rows that values holds, one of each length, each with prefix before it and END after it."""
    offsets = np.concatenate([[0], np.cumsum(lengths + len(prefix) + 1)])
    frame = {-1: END, **dict(enumerate(prefix))}  # places from where a row begins; that before it ends another row
    inner = np.ones(offsets[-1], np.bool_)
    for place in frame:
        inner[offsets[:-1] + place] = False
    framed = np.empty(offsets[-1], np.uint16)
    framed[inner] = values  # copies whole rows, which an index for each token does not
    for place, token in frame.items():
        framed[offsets[:-1] + place] = token
    return Ragged(framed, offsets)


def _ended(tokens: Tokens) -> Ragged:
    """Return the rows of tokens (S, L), each with END after it."""
    ended = np.pad(tokens, ((0, 0), (0, 1)), constant_values=END)
    return Ragged(ended.ravel(), np.arange(len(tokens) + 1) * ended.shape[1])


def _table(
    task: Task,
    *,
    users: NDArray[np.uint32] | None,
    items: NDArray[np.uint32],
    is_taught: NDArray[np.bool_],
    source: Ragged,
    target: Ragged,
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user": pl.Series(users, dtype=pl.UInt32)
            if users is not None
            else pl.Series([None] * len(items), dtype=pl.UInt32),
            "task": pl.repeat(str(task), len(items), dtype=pl.String, eager=True),
            "item": pl.Series(items, dtype=pl.UInt32),
            "taught": pl.Series(is_taught, dtype=pl.Boolean),
            "source": _list_series(source),
            "target": _list_series(target),
        }
    )


def _list_series(ragged: Ragged) -> pl.Series:
    return pl.Series(pa.LargeListArray.from_arrays(ragged.offsets, ragged.values))
