"""Give every item an ID of its own.

`reassign` is the rule of MQL4GRec (arXiv 2504.05314), which MACRec takes over, carried through to the end:

- items with the same codes form a group; the one nearest to its last-level code keeps it (of equals, the first);
- the others, in that order, each take the free last-level code that is nearest to their last residual;
- where all are taken, the next nearest second-last code and then the nearest free last-level code under it;
- groups come in lexicographic order of their codes; earlier levels never change; nobody gives way to a later one.

Distances are those along the original path: to the codes of the last level from the residual there, to those of the
second-last level from the residual there. Codes without a place (NaN in the codebook) come last, in code order.

Why it is fast: each item that must move has a fixed order of preference over the IDs that begin as its own does, and
wherever two meet, the same one of them comes first. The rule's outcome is then the one stable matching, and proposals
in any order lead to it (Gale and Shapley, 1962): in each round all who have none make one, at once, as arrays.

`uniform` is the rule of LC-Rec (arXiv 2311.09049) before that: items with the same codes share the last level's codes
out among them. What then still is the same, as of equal items, is left to `reassign`; the paper leaves it so.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from tessera.codes.uniform import PUBLISHED, Sinkhorn, shared_out
from tessera.errors import DataError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Codes are stored as 16-bit integers.
LARGEST_CODEBOOK = 2**16

#: Distances computed at one time: half a MiB of them, which stays in a core's own cache from one step to the next.
BLOCK = 2**16

#: Items that an error names.
NAMED = 5

#: Rounds of `respread` at most, as published, and shares computed at one time.
ROUNDS, SHARES = 20, 2**22

#: The distance of a code without a place, farther than any other, and what is added to that of a code that is taken.
_NOWHERE, _TAKEN = 1e100, 1e200


Rule = Literal["reassign", "uniform", "extra_code", "none"]


class Paths(NamedTuple):
    """The codes of all items as they were quantised, and what the distances along their paths are computed from."""

    codes: Integers  # (N, L)
    residuals: NDArray[np.float32]  # (N, d) before the second-last level; before the only one where L = 1
    codebooks: NDArray[np.float32]  # (L, M, d); a code whose row is NaN has no place


def resolve(
    paths: Paths,
    *,
    rule: Rule,
    names: Sequence[str],
    present: NDArray[np.bool_] | None = None,
    sinkhorn: Sinkhorn = PUBLISHED,
    fixed: int = 0,
) -> Integers:
    """Return codes without collisions by the rule of that name; `none` leaves (N, L) as it is.

    `sinkhorn` is for `uniform` alone.

    Items that are not present (N,) only borrow their path, and give way: the others have the IDs that they would have
    alone.

    The first `fixed` items have their IDs for good: distinct codes that the others give way to. Those then follow
    `reassign` where the rule is `uniform`, and are numbered on where it is `extra_code`.

    Raises DataError, naming some items by names (N,), where an item cannot have an ID of its own.
    """
    if rule == "none":
        return paths.codes.copy()
    if rule == "uniform" and fixed:
        rule = "reassign"
    if rule == "uniform":
        here = np.ones(len(paths.codes), dtype=np.bool_) if present is None else present
        codes = paths.codes.copy()
        codes[here] = respread(
            paths._replace(codes=paths.codes[here], residuals=paths.residuals[here]), sinkhorn=sinkhorn
        )
        return resolve(paths._replace(codes=codes), rule="reassign", names=names, present=present)
    if present is not None and not present[fixed:].all():
        gives_way = ~present & (np.arange(len(present)) >= fixed)
        order = np.argsort(gives_way, kind="stable")
        ordered = paths._replace(codes=paths.codes[order], residuals=paths.residuals[order])
        called = [names[item] for item in order]
        if rule == "reassign":
            count = int(np.count_nonzero(~gives_way))
            first = Paths(ordered.codes[:count], ordered.residuals[:count], ordered.codebooks)
            settled = reassign(first, names=called[:count], fixed=fixed)
            ordered, fixed = ordered._replace(codes=np.concatenate([settled, ordered.codes[count:]])), count
        resolved = resolve(ordered, rule=rule, names=called, fixed=fixed)
        codes = np.empty_like(resolved)
        codes[order] = resolved
        return codes
    if rule == "extra_code":
        codes = add_code(paths.codes, size=paths.codebooks.shape[1], names=names)
    else:
        codes = reassign(paths, names=names, fixed=fixed)
    require_distinct(codes, names=names)
    return codes


def reassign(paths: Paths, *, names: Sequence[str], fixed: int = 0) -> Integers:
    """Return distinct codes (N, L) by the rule above; the first `fixed` items, whose codes are distinct, keep theirs.

    Of three items with the codes [0, 0], the nearest keeps [0, 0] and the next takes [0, 1], if M = 2; the last one
    finds all of [0, _] taken and goes to [1, _], whichever is nearer to its last residual.

    Raises DataError, naming some of the items by names (N,), where more of them begin alike than there are IDs that
    begin so.
    """
    codes, size = paths.codes.copy(), paths.codebooks.shape[1]
    places = packed(codes, size=size)
    order = np.argsort(places)
    ordered = places.take(order)
    movers = _movers(paths, ordered, order, fixed=fixed)
    if len(movers) == 0:
        return codes
    _require_room(codes, places, movers, size=size, names=names)
    with _one_thread():
        found = _Matching(paths, kept=_distinct(ordered), movers=movers, original=places[movers]).places()
    codes[movers, -1] = found % size
    if codes.shape[1] > 1:
        codes[movers, -2] = found // size % size
    return codes


def respread(paths: Paths, *, sinkhorn: Sinkhorn) -> Integers:
    """Return codes (N, L) whose last ones are shared out in each group of items that have the same codes.

    Items that so come to have the codes of others form groups with them, which are shared out again, up to ROUNDS
    times. Published, in LC-Rec's released code: these rounds, and Sinkhorn's iterations on a group's own residuals.
    Chosen: an item takes the nearest code of those that are its own (see `uniform.shared_out`).
    """
    codes = paths.codes.copy()
    placed = np.flatnonzero(~np.isnan(paths.codebooks[-1]).any(axis=1))
    if paths.codebooks.shape[2] == 0 or len(placed) == 0:
        return codes  # nothing is known of what is near
    places = torch.from_numpy(paths.codebooks[-1][placed])
    for _ in range(ROUNDS):
        before = codes[:, -1].copy()
        for items in _groups(codes, size=paths.codebooks.shape[1]):
            residuals = torch.from_numpy(_last_residuals(paths, items.reshape(-1))).view(*items.shape, -1)
            taken = shared_out(residuals, places, sinkhorn=sinkhorn).numpy()
            codes[items, -1] = np.where(taken < 0, codes[items, -1], placed[taken])
        if np.array_equal(codes[:, -1], before):
            break
    return codes


def _groups(codes: Integers, *, size: int) -> list[Integers]:
    """Return the items with the same codes (N, L), those of equally large groups together: (G, g) of each g above 1."""
    places = packed(codes, size=size)
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(_is_first(places[order]))
    lengths = np.diff(starts, append=len(order))
    found = []
    for length in np.unique(lengths[lengths > 1]):
        items = order[starts[lengths == length][:, None] + np.arange(length)]
        step = max(1, SHARES // (length * size))
        found += [items[start : start + step] for start in range(0, len(items), step)]
    return found


def add_code(codes: Integers, *, size: int, names: Sequence[str]) -> Integers:
    """Return codes (N, L + 1): one more level that numbers the items with the same codes (TIGER, arXiv 2305.05065).

    Items are numbered in their order: codes [[4], [4], [7]] become [[4, 0], [4, 1], [7, 0]].

    Raises DataError where more items share their codes than a level has codes, which is `size`.
    """
    places = packed(codes, size=size)
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(_is_first(places[order]))
    lengths = np.diff(starts, append=len(order))
    if len(lengths) and lengths.max() > size:
        group = order[starts[lengths.argmax()] :][: lengths.max()]
        raise DataError(
            f"quant.codebook_size: expected at most {size} items with the same codes, so that one more code can tell "
            f"them apart, found {len(group)}: {_some(group, names)}"
        )
    numbers = np.empty_like(order)
    numbers[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return np.column_stack([codes, numbers])


def require_distinct(codes: Integers, *, names: Sequence[str]) -> None:
    """Raise DataError, naming some, where two items have the same codes (N, L)."""
    places = packed(codes, size=int(codes.max(initial=0)) + 1)
    if len(_distinct(np.sort(places))) < len(places):
        _, first, inverse = np.unique(places, return_index=True, return_inverse=True)
        repeated = np.flatnonzero(first[inverse] != np.arange(len(places)))
        raise DataError(
            f"expected an ID of its own for each of {len(codes)} items, found {len(repeated)} that have another's: "
            f"{_some(repeated, names)}"
        )


class _Matching:
    """The movers' proposals and who holds which ID.

    Movers (K,) are numbered in the order of the rule; `urgency` is higher the earlier one is, 0 for an ID that nobody
    holds and K + 1 for one whose item keeps it. A bucket is all IDs that differ in the last code only; `table` has a
    row (M,) for each bucket that a mover can come to. Of each row (R,), `free` counts the IDs that nobody holds and
    `least` is the smallest urgency.
    """

    def __init__(self, paths: Paths, *, kept: Integers, movers: Integers, original: Integers) -> None:
        self.size = paths.codebooks.shape[1]
        self.paths, self.movers, self.original = paths, movers, original
        self.urgency = np.arange(len(movers), 0, -1, dtype=np.int32)
        self.last = _Distances(paths.codebooks[-1])
        self.second_last = _Distances(paths.codebooks[-2]) if len(paths.codebooks) > 1 else None
        self.buckets = self._reachable(kept)
        # Zeros cost no memory before they are written: few of the rows that can be reached ever are.
        self.table = np.zeros((len(self.buckets), self.size), dtype=np.int32)
        self.own = np.searchsorted(self.buckets, original // self.size)
        self.free = np.full(len(self.buckets), self.size)
        self.least = np.zeros(len(self.buckets), dtype=np.int32)
        self._hold(self._slots_in_reach(kept), urgency=len(movers) + 1)

    def places(self) -> Integers:
        """Return the place (K,) that each mover ends up with."""
        seekers = np.arange(len(self.movers))
        held = np.empty(len(self.movers), dtype=np.int64)
        holders = self.table.reshape(-1)
        while len(seekers):
            slots = self._proposals(seekers)
            before = holders[slots]
            np.maximum.at(holders, slots, self.urgency[seekers])
            won = holders[slots] == self.urgency[seekers]
            winners, displaced = seekers[won], before[won]
            held[winners] = slots[won]
            self._watch(slots[won], taken=displaced == 0)
            seekers = np.concatenate([seekers[~won], len(self.movers) - displaced[displaced > 0]])
        return self.buckets[held // self.size] * self.size + held % self.size

    def _reachable(self, kept: Integers) -> Integers:
        """Return, sorted, the movers' own buckets and, where one overflows, all of those that begin as it does."""
        movers = self.original // self.size
        own = _distinct(movers)
        if not self.second_last:
            return own
        _, keepers = self._within(kept, own)
        items = np.diff(np.searchsorted(movers, own), append=len(movers)) + keepers
        overflowing = _distinct(own[items > self.size] // self.size)
        others = (overflowing[:, None] * self.size + np.arange(self.size)).reshape(-1)
        return np.union1d(own, others) if len(others) else own

    def _within(self, kept: Integers, buckets: Integers) -> tuple[Integers, Integers]:
        """Return, for each of buckets, the index of the first one of the places kept in it, and how many there are."""
        bounds = np.searchsorted(kept, np.stack([buckets, buckets + 1]) * self.size)
        return bounds[0], bounds[1] - bounds[0]

    def _slots_in_reach(self, kept: Integers) -> Integers:
        """Return those of the places kept, as slots, that are in a bucket of `buckets`."""
        firsts, counts = self._within(kept, self.buckets)
        rows = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(rows)) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
        return rows * self.size + kept[within] % self.size

    def _hold(self, slots: Integers, *, urgency: int) -> None:
        """Let free, distinct slots be held with an urgency."""
        self.table.reshape(-1)[slots] = urgency
        self._watch(slots, taken=np.ones(len(slots), dtype=np.bool_))

    def _watch(self, slots: Integers, *, taken: NDArray[np.bool_]) -> None:
        """Bring `free` and `least` up to date for slots with a new holder, of which those in taken were free."""
        rows = slots // self.size
        np.subtract.at(self.free, rows[taken], 1)
        full = rows[self.free[rows] == 0]
        self.least[full] = self.table[full].min(axis=1)

    def _proposals(self, seekers: Integers) -> Integers:
        """Return, for each of seekers, the slot (row * M + code) that it likes best of those open to it."""
        rows = self.own[seekers]
        closed = self.least[rows] >= self.urgency[seekers]
        if closed.any():
            rows[closed] = self._other_rows(seekers[closed])
        slots = np.empty(len(seekers), dtype=np.int64)
        step = max(1, BLOCK // self.size)
        for start in range(0, len(seekers), step):
            part = slice(start, start + step)
            slots[part] = self._nearest_open(seekers[part], rows[part])
        return slots

    def _nearest_open(self, seekers: Integers, rows: Integers) -> Integers:
        """Return the slot nearest to each of seekers among those of its row (B,) that are open to it."""
        distances = self.last.of(_last_residuals(self.paths, self.movers[seekers]))
        at_home = np.flatnonzero(rows == self.own[seekers])
        distances[at_home, self.original[seekers[at_home]] % self.size] = np.inf  # kept, and most often the nearest
        slots = rows * self.size + distances.argmin(axis=1)
        closed = np.flatnonzero(self.table.reshape(-1)[slots] >= self.urgency[seekers])
        others = distances.take(closed, axis=0)
        others += _TAKEN * (self.table.take(rows[closed], axis=0) >= self.urgency[seekers[closed], None])
        slots[closed] = rows[closed] * self.size + others.argmin(axis=1)
        return slots

    def _other_rows(self, seekers: Integers) -> Integers:
        """Return the row of the bucket that each of seekers, whose own is closed to it, likes best of those open."""
        assert self.second_last is not None  # noqa: S101 - one bucket alone has room for all, or _require_room raised
        rows = np.empty(len(seekers), dtype=np.int64)
        step = max(1, BLOCK // self.size)
        for start in range(0, len(seekers), step):
            part = seekers[start : start + step]
            first = self.original[part] // self.size // self.size * self.size
            alike = np.searchsorted(self.buckets, first)[:, None] + np.arange(self.size)
            distances = self.second_last.of(self.paths.residuals[self.movers[part]])
            distances += _TAKEN * (self.least[alike] >= self.urgency[part, None])
            rows[start : start + step] = alike[:, 0] + distances.argmin(axis=1)
        return rows


class _Distances:
    """Squared distances to the codes of one level, but for the part |r|^2 that is the same for all of them."""

    def __init__(self, codebook: NDArray[np.float32]) -> None:
        codes = torch.from_numpy(codebook).double()
        placed = ~codes.sum(dim=1).isnan()
        self.codes = codes.where(placed[:, None], 0).T
        self.squares = self.codes.square().sum(dim=0).where(placed, _NOWHERE)

    def of(self, residuals: NDArray[np.float32]) -> Floats:
        """Return |e|^2 - 2 r e, of shape (B, M), for residuals r (B, d)."""
        return torch.addmm(self.squares, torch.from_numpy(residuals).double(), self.codes, alpha=-2).numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute in this thread alone: its products here are so small that waiting for another costs more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _distinct(numbers: Integers) -> Integers:
    """Return the distinct ones of sorted numbers."""
    return numbers[_is_first(numbers)]


def _is_first(numbers: Integers) -> NDArray[np.bool_]:
    """Return, for each of sorted numbers, whether it is the first of its like."""
    first = np.ones(len(numbers), dtype=np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=first[1:])
    return first


def packed(codes: Integers, *, size: int) -> Integers:
    """Return codes (N, L) as one number an item (N,), in the same order; the last two codes are its last two digits.

    Base M; what comes before the last two digits is a number of what the codes there mean, not their digits, where
    digits would not fit.
    """
    place = np.zeros(len(codes), dtype=np.int64)
    for level, column in enumerate(codes.T):
        digits = {1: 0, 2: 2}.get(codes.shape[1] - level, 1)  # those that have to fit behind what is there so far
        place = _fitting(place, factor=size**digits)
        place *= size
        place += column
    return place


def _fitting(numbers: Integers, *, factor: int) -> Integers:
    """Return numbers, or their ranks where numbers times factor would be too large for 64 bits."""
    if len(numbers) and (int(numbers.max()) + 1) * factor > np.iinfo(np.int64).max:
        return np.unique(numbers, return_inverse=True)[1].reshape(-1)
    return numbers


def _movers(paths: Paths, places: Integers, order: Integers, *, fixed: int) -> Integers:
    """Return the items (K,) that cannot keep their codes, in the order of the rule.

    places (N,) are sorted, and order (N,) are the items in that order. Of those with the same codes one of the first
    `fixed` items comes before all others.
    """
    follows = ~_is_first(places)  # another item of the same codes
    crowded = follows | np.append(follows[1:], False)
    items = order[crowded]
    distances = np.where(items < fixed, -1, _own_distances(paths, items))
    table = pl.DataFrame({"place": places[crowded], "distance": distances, "item": items})
    return table.sort("place", "distance", "item")["item"].to_numpy()[follows[crowded]]  # the first of each group stays


def _own_distances(paths: Paths, items: Integers) -> Floats:
    """Return the squared distance (B,) of each of items from its own last-level code."""
    distances = np.empty(len(items))
    step = max(1, BLOCK // max(paths.codebooks.shape[2], 1))
    for start in range(0, len(items), step):
        part = items[start : start + step]
        gaps = _last_residuals(paths, part).astype(np.float64)
        gaps -= paths.codebooks[-1][paths.codes[part, -1]]
        distances[start : start + step] = np.einsum("nd,nd->n", gaps, gaps)
    return distances


def _last_residuals(paths: Paths, items: Integers) -> NDArray[np.float32]:
    """Return what is left of items (B,) for the last level: (B, d)."""
    residuals = paths.residuals.take(items, axis=0)
    if len(paths.codebooks) > 1:
        residuals -= paths.codebooks[-2].take(paths.codes[items, -2], axis=0)
    return residuals


def _require_room(codes: Integers, places: Integers, movers: Integers, *, size: int, names: Sequence[str]) -> None:
    """Raise DataError if more items have the same codes before the last two than the last two can tell apart."""
    changing = min(codes.shape[1], 2)
    room = size**changing
    if len(codes) <= room:
        return
    alike, counts = np.unique(places // room, return_counts=True)
    too_many = dict(zip(alike[counts > room].tolist(), (counts[counts > room] - room).tolist(), strict=True))
    if not too_many:
        return
    begins = places[movers] // room
    kept = codes.shape[1] - changing
    homeless = np.concatenate([movers[begins == begin][-excess:] for begin, excess in too_many.items()])
    raise DataError(
        f"quant.codebook_size: expected an ID for each of {len(codes)} items, found none for {len(homeless)}: "
        f"{_some(homeless, names)}; {size} codes on {changing} levels make {room} IDs"
        + (f", and up to {counts.max()} items have the same first {kept} codes" if kept else "")
    )


def _some(items: Integers, names: Sequence[str]) -> str:
    named = ", ".join(str(names[item]) for item in items[:NAMED])
    return f"{named}, ..." if len(items) > NAMED else named
