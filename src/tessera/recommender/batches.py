"""Samples as flat tensors, and batches of them cut and padded without a Python object per sample."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tessera.recommender.lists import NOTHING
from tessera.recommender.vocabulary import PAD
from tessera.tasks import Task

LISTS = ("source", "target")
"""The columns of a corpus table that hold tokens."""

SORTED_TOGETHER = 50
"""Batches' worth of sources that are sorted by length at a time: enough to waste little, few enough to stay mixed."""


class Rows(NamedTuple):
    """Lists of integers of unequal length: row i is values[offsets[i] : offsets[i + 1]]."""

    values: Tensor  # (sum of lengths,) int32
    offsets: Tensor  # (S + 1,) int64

    @property
    def lengths(self) -> Tensor:
        """How long each row is, (S,)."""
        return self.offsets.diff()

    def take(self, rows: Tensor) -> "Rows":
        """Return the rows (B,), in that order, as rows of their own."""
        rows = rows.to(self.offsets.device)
        lengths = self.lengths[rows]
        offsets = nn.functional.pad(lengths.cumsum(0), (1, 0))
        places = torch.arange(int(offsets[-1]), device=rows.device)
        return Rows(self.values[places + torch.repeat_interleave(self.offsets[rows] - offsets[:-1], lengths)], offsets)

    def lengths_of(self, rows: Tensor) -> Tensor:
        """Return how long each of rows (B,) is, (B,)."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def places(self, rows: Tensor, *, width: int | None = None) -> Tensor:
        """Return where in values the rows (B,) are, (B, T), NOTHING after their ends and for a row that is NOTHING.

        T is at least 1. width is T where it is known before: a GPU would have to be waited for to find it out.
        """
        rows = rows.to(self.offsets.device)
        starts, lengths = self.offsets[rows], self.lengths_of(rows)  # of NOTHING, from the end to 0: below 0
        steps = torch.arange(max(1, int(lengths.max())) if width is None else width, device=rows.device)
        return torch.where(steps < lengths[:, None], starts[:, None] + steps, NOTHING)

    def padded(self, rows: Tensor, *, filler: int = PAD, width: int | None = None) -> Tensor:
        """Return the rows (B,) as one table (B, T), with filler where `places`, of that width, have none."""
        places = self.places(rows, width=width)
        if not len(self.values):
            return torch.full_like(places, filler)
        return torch.where(places > NOTHING, self.values[places].long(), filler)


class Batch(NamedTuple):
    """B sources, padded, each with room for R samples: those of a source stand in rows b R ... b R + R - 1."""

    source: Tensor  # (B, T)
    target: Tensor  # (B R, T') nothing but PAD where there is no sample
    items: Tensor  # (B R,) the target items
    told: Tensor  # (B R,) place in the samples' names of what the target is an ID of

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on device."""
        return Batch(*(table.to(device) for table in self))


class Samples(NamedTuple):
    """A corpus table as tensors; S samples of G sources. What a teacher named for a history has its source."""

    source: Rows  # G of them
    firsts: Tensor  # (G + 1,) the first sample of each source, which has its own target, and S
    target: Rows  # S of them
    items: Tensor  # (S,) the target items
    told: Tensor  # (S,) place in names of what the target is an ID of
    names: tuple[str, ...]  # what the tasks tell IDs of, sorted: a modality, or whatever else items have IDs of

    def to(self, device: torch.device) -> "Samples":
        """Return the same samples on device."""
        source, target = (Rows(rows.values.to(device), rows.offsets.to(device)) for rows in (self.source, self.target))
        return Samples(source, self.firsts.to(device), target, self.items.to(device), self.told.to(device), self.names)

    def of(self, sources: Tensor, *, width: int | None = None) -> Tensor:
        """Return the samples (B, R) of sources (B,), NOTHING where one has fewer; width is R where that is known."""
        return Rows(self.items, self.firsts).places(sources, width=width)

    def widths(self, sources: Tensor) -> tuple[int, int, int]:
        """Return what `batch` needs to know of sources (B,): their length T, how many samples R each, and T'."""
        samples = self.of(sources)
        lengths = self.target.lengths_of(samples[samples > NOTHING])
        return int(self.source.lengths_of(sources).max()), samples.shape[1], int(lengths.max())

    def tokens(self, sources: Tensor) -> int:
        """Return how many target tokens the samples of sources (B,) have together."""
        return int((self.target.offsets[self.firsts[sources + 1]] - self.target.offsets[self.firsts[sources]]).sum())

    def distinct_items(self, sources: Tensor) -> Tensor:
        """Return the own target items of sources (B,), each once: not those that a teacher named."""
        return self.items[self.firsts[sources]].unique()

    def batch(self, sources: Tensor, widths: tuple[int, int, int] | None = None) -> Batch:
        """Return the sources (B,) with their samples; a GPU would have to be waited for to find their widths out."""
        length, each, target_length = widths or self.widths(sources)
        samples = self.of(sources, width=each).flatten()
        return Batch(
            self.source.padded(sources, width=length),
            self.target.padded(samples, width=target_length),
            *(torch.where(samples > NOTHING, table[samples], NOTHING) for table in (self.items, self.told)),
        )


class Gathered(Protocol):
    """Numbers that come one after the other and end as one array, wherever that lies."""

    def add(self, numbers: NDArray[np.int32], /) -> None:
        """Take further numbers (n,)."""

    def whole(self) -> NDArray[np.int32]:
        """Return all of them."""
        ...


class InMemory:
    """Numbers in memory."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.int32]] = []

    def add(self, numbers: NDArray[np.int32]) -> None:
        """Take further numbers (n,)."""
        self._parts.append(numbers)

    def whole(self) -> NDArray[np.int32]:
        """Return all of them."""
        return self._parts[0] if len(self._parts) == 1 else np.concatenate([np.zeros(0, np.int32), *self._parts])


def samples_of(*corpus: pl.DataFrame) -> Samples:
    """Return the samples of corpus tables (columns task, item, taught, source and target)."""
    return gathered_samples(corpus, InMemory)


def gathered_samples(tables: Iterable[pl.DataFrame], gather: Callable[[], Gathered]) -> Samples:
    """Return the samples of corpus tables, of which one is looked at at a time; what gather gives holds the tokens."""
    tokens, lengths = {name: gather() for name in LISTS}, {name: [np.zeros(1, np.int64)] for name in LISTS}
    items, tasks, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], dict[str, int]()
    begins = [np.zeros(0, np.bool_)]
    for table in tables:
        if table.is_empty():
            continue
        begins.append(~table["taught"].to_numpy())
        for name, lists in zip(LISTS, (table["source"].filter(begins[-1]), table["target"]), strict=True):
            rows = rows_of(lists)
            lengths[name].append(rows.lengths.numpy())
            tokens[name].add(rows.values.numpy())
        items.append(table["item"].to_numpy().astype(np.int64))
        for task in table["task"].unique():
            numbers.setdefault(task, len(numbers))
        tasks.append(table["task"].replace_strict(numbers, return_dtype=pl.Int64).to_numpy())
    source, target = (
        Rows(torch.from_numpy(tokens[name].whole()), torch.from_numpy(np.cumsum(np.concatenate(lengths[name]))))
        for name in LISTS
    )
    told = [Task.parse(task).target for task in numbers]
    names = tuple(sorted(set(told)))
    places = np.array([names.index(name) for name in told], np.int64)[np.concatenate(tasks)]
    firsts = np.append(np.flatnonzero(np.concatenate(begins)), len(places))
    return Samples(
        source,
        torch.from_numpy(firsts),
        target,
        torch.from_numpy(np.concatenate(items)),
        torch.from_numpy(places),
        names,
    )


def rows_of(lists: pl.Series) -> Rows:
    """Return a column of lists of integers as rows."""
    lengths = lists.list.len().to_numpy().astype(np.int64)
    values = lists.explode(empty_as_null=False).to_numpy().astype(np.int32)
    return Rows(torch.from_numpy(values), torch.from_numpy(np.append(0, np.cumsum(lengths))))


def cut_into_batches(
    lengths: Tensor, *, batch_size: int, generator: torch.Generator, smallest: int = 1
) -> list[Tensor]:
    """Return batches of the rows that have lengths (S,), in random order, each of rows of about one length.

    Rows are shuffled, sorted by length within stretches of SORTED_TOGETHER batches, cut, and the batches shuffled:
    padding stays small and every row comes once. All batches but the last one cut hold batch_size rows; one that would
    have fewer than smallest joins the one before it.
    """
    lengths = lengths.cpu()
    order = torch.randperm(len(lengths), generator=generator)
    batches: list[Tensor] = []
    for stretch in order.split(batch_size * SORTED_TOGETHER):
        batches += stretch[torch.argsort(lengths[stretch], stable=True)].split(batch_size)
    if len(batches) > 1 and len(batches[-1]) < smallest:
        batches[-2:] = [torch.cat(batches[-2:])]
    return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]


def batches_by_length(lengths: Tensor, *, batch_size: int) -> list[Tensor]:
    """Return batches of all rows, longest first: for inference, where order does not matter."""
    order = torch.argsort(lengths.cpu(), descending=True, stable=True)
    return [batch for batch in order.split(batch_size) if len(batch)]


def hide_modalities(source: Tensor, modalities: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Return source (B, T) with whole modalities of some sources turned into PAD, which no network looks at.

    modalities (V,) tells which modality 0, 1, ... each token is a code of, -1 where of none: END and task prefixes
    stay, and no token moves. MSCGRec (arXiv 2602.03713) masks whole modalities at random; with which probability, and
    whether several at once, is not published. Here each modality of a source is hidden where its draw from [0, 1) is
    below share, but never the one with the highest draw: a source keeps one at least, its only one always, and of k
    modalities each is hidden with probability share - share^k / k. A share of 0 draws nothing.
    """
    if not share:
        return source
    owners = modalities[source]  # (B, T)
    numbers = torch.arange(int(modalities.max()) + 1, device=source.device)
    is_present = (owners[..., None] == numbers).any(dim=1)  # (B, K)
    draws = torch.rand(is_present.shape, generator=generator, device=source.device).masked_fill_(~is_present, -1)
    is_hidden = (draws < share).scatter_(1, draws.argmax(dim=1, keepdim=True), value=False)
    return source.masked_fill((owners >= 0) & is_hidden.gather(1, owners.clamp(min=0)), PAD)
