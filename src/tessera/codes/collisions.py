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
in any order lead to it (Gale and Shapley, 1962): in each round all who have none make one, at once, as arrays. What is
nearest is looked for among distances of 32 bits, and among those of 64 where rounding could decide.

`uniform` is the rule of LC-Rec (arXiv 2311.09049) before that: items with the same codes share the last level's codes
out among them. What then still is the same, as of equal items, is left to `reassign`; the paper leaves it so.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tessera.codes.uniform import PUBLISHED, Sinkhorn, shared_out
from tessera.errors import DataError
from tessera.products import linear

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
AnyFloats = NDArray[np.floating[Any]]

#: Codes are stored as 16-bit integers.
LARGEST_CODEBOOK = 2**16

#: Distances computed at one time, and numbers of residuals: as many as stay in a core's own cache from one step to the
#: next, and of distances more, since to begin a product costs as much.
BLOCK, RESIDUALS = 2**20, 2**15

#: Items that an error names.
NAMED = 5

#: Rounds of `respread` at most, as published, and shares computed at one time.
ROUNDS, SHARES = 20, 2**22

#: The distance of a code without a place, farther than any other, and what is added to that of a code that is taken; by
#: how the distances are computed.
_NOWHERE = {np.dtype(np.float64): 1e100, np.dtype(np.float32): 1e30}
_TAKEN = {np.dtype(np.float64): 1e200, np.dtype(np.float32): 1e36}

#: Squared lengths for which 32 bits have room, whatever is computed from them.
_SMALLEST, _LARGEST = 1e-25, 1e28

#: Numbers of a residual, and multiplications, from which a product takes so long that 32 bits save more than they cost.
_WIDE, _LONG = 16, 2**20


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
    order, ordered = _in_order(places)
    is_first = _is_first(ordered)
    movers = _movers(paths, order, is_first, fixed=fixed)
    if len(movers) == 0:
        return codes
    _require_room(codes, places, movers, size=size, names=names)
    with _one_thread():
        found = _Matching(paths, kept=ordered[is_first], movers=movers, original=places[movers]).places()
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
    order, ordered = _in_order(places)
    starts = np.flatnonzero(_is_first(ordered))
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
    order, ordered = _in_order(places)
    starts = np.flatnonzero(_is_first(ordered))
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
    narrow = places.astype(np.min_scalar_type(int(places.max(initial=0))))  # the narrower, the faster sorted
    if not _is_first(np.sort(narrow)).all():
        order, ordered = _in_order(places)
        repeated = np.sort(order[~_is_first(ordered)])
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
        numbers = np.int16 if len(movers) < np.iinfo(np.int16).max else np.int32  # the table is most of the memory
        self.urgency = np.arange(len(movers), 0, -1, dtype=numbers)
        self.last = _Distances(paths.codebooks[-1])
        homes = original // self.size  # sorted, as the rule has it
        is_first = _is_first(homes)
        self.buckets, self.own = homes[is_first], is_first.cumsum() - 1
        firsts, counts = self._within(kept)
        others = self._others(np.bincount(self.own) + counts)
        if len(others):
            self.buckets = np.union1d(self.buckets, others)
            self.own = np.searchsorted(self.buckets, homes)
            firsts, counts = self._within(kept)
        # Zeros cost no memory before they are written: few of the rows that can be reached ever are.
        self.table = np.zeros((len(self.buckets), self.size), dtype=numbers)
        self.free = np.full(len(self.buckets), self.size)
        self.least = np.zeros(len(self.buckets), dtype=numbers)
        rows = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(rows)) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
        self._hold(rows * self.size + kept[within] % self.size, urgency=len(movers) + 1)

    @cached_property
    def second_last(self) -> "_Distances":
        """The distances to the codes that most crowds have no need of."""
        return _Distances(self.paths.codebooks[-2])

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
            if not won.any():
                raise DataError("residuals: expected finite numbers, found some to which no code is near")
            winners, displaced = seekers[won], before[won]
            held[winners] = slots[won]
            self._watch(slots[won], taken=displaced == 0)
            seekers = np.concatenate([seekers[~won], len(self.movers) - displaced[displaced > 0]])
        return self.buckets[held // self.size] * self.size + held % self.size

    def _others(self, items: Integers) -> Integers:
        """Return the buckets that begin as one of `buckets` does that its items, so many in each, overflow."""
        if len(self.paths.codebooks) == 1:
            return np.empty(0, dtype=np.int64)
        overflowing = _distinct(self.buckets[items > self.size] // self.size)
        return (overflowing[:, None] * self.size + np.arange(self.size)).reshape(-1)

    def _within(self, kept: Integers) -> tuple[Integers, Integers]:
        """Return, for each of `buckets`, the index of the first of the places kept in it, and how many there are."""
        bounds = np.searchsorted(kept, np.stack([self.buckets, self.buckets + 1]) * self.size)
        return bounds[0], bounds[1] - bounds[0]

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
        residuals = _last_residuals(self.paths, self.movers[seekers])
        codes, unsure = np.empty(len(seekers), dtype=np.int64), np.arange(len(seekers))
        if residuals.shape[1] >= _WIDE and residuals.size * self.size >= _LONG:
            distances, errors = self.last.roughly(residuals)
            with np.errstate(over="ignore", invalid="ignore"):  # where 32 bits have no room, and their errors no bound
                codes = self._nearest_of(distances, seekers, rows)
                leads = _leads(distances, codes)
            unsure = np.flatnonzero(~(leads > errors))
        if len(unsure):
            exact = self.last.of(residuals[unsure])
            codes[unsure] = self._nearest_of(exact, seekers[unsure], rows[unsure])
        return rows * self.size + codes

    def _nearest_of(self, distances: AnyFloats, seekers: Integers, rows: Integers) -> Integers:
        """Return the nearest code open to each of seekers (B,).

        Where the nearest of all is not open, distances (B, M) are made so large that none is before one that is.
        """
        urgency = self.urgency[seekers]
        at_home = np.flatnonzero(rows == self.own[seekers])
        distances[at_home, self.original[seekers[at_home]] % self.size] = np.inf  # kept, and most often the nearest
        codes = distances.argmin(axis=1)
        closed = np.flatnonzero(self.table[rows, codes] >= urgency)
        others = distances.take(closed, axis=0)
        others[self.table.take(rows[closed], axis=0) >= urgency[closed, None]] += _TAKEN[distances.dtype]
        distances[closed], codes[closed] = others, others.argmin(axis=1)
        return codes

    def _other_rows(self, seekers: Integers) -> Integers:
        """Return the row of the bucket that each of seekers, whose own is closed to it, likes best of those open."""
        rows = np.empty(len(seekers), dtype=np.int64)
        step = max(1, BLOCK // self.size)
        for start in range(0, len(seekers), step):
            part = seekers[start : start + step]
            first = self.original[part] // self.size // self.size * self.size
            alike = np.searchsorted(self.buckets, first)[:, None] + np.arange(self.size)
            distances = self.second_last.of(self.paths.residuals[self.movers[part]])
            distances += _TAKEN[distances.dtype] * (self.least[alike] >= self.urgency[part, None])
            rows[start : start + step] = alike[:, 0] + distances.argmin(axis=1)
        return rows


class _Distances:
    """Squared distances to the codes of one level, but for the part |r|^2 that is the same for all of them."""

    def __init__(self, codebook: NDArray[np.float32]) -> None:
        placed = ~np.isnan(codebook.sum(axis=1))
        codes = np.where(placed[:, None], codebook, 0).astype(np.float64)
        squares = np.einsum("md,md->m", codes, codes)
        self.longest = math.sqrt(squares.max())
        self.doubled, self.squares = -2 * codes, np.where(placed, squares, _NOWHERE[squares.dtype])
        farthest = _NOWHERE[np.dtype(np.float32)]
        self.rough_doubled, self.rough_squares = (
            torch.from_numpy(np.clip(each, -farthest, farthest).astype(np.float32))
            for each in (self.doubled, self.squares)
        )
        self.first: Integers | None = None  # of the codes with the same place (M,), where there are such
        if len(np.unique(self.squares)) < len(codes):
            places = np.column_stack([codes, self.squares])
            _, first, inverse = np.unique(places, axis=0, return_index=True, return_inverse=True)
            self.first = first[inverse.reshape(-1)]

    def of(self, residuals: NDArray[np.float32]) -> Floats:
        """Return |e|^2 - 2 r e, of shape (B, M), for residuals r (B, d).

        Codes with the same place are equally far, which a product does not care for in all of its columns.
        """
        squares, doubled = torch.from_numpy(self.squares), torch.from_numpy(self.doubled)
        found: Floats = torch.addmm(squares, torch.from_numpy(residuals).double(), doubled.T).numpy()
        return found if self.first is None else found[:, self.first]

    def roughly(self, residuals: NDArray[np.float32]) -> tuple[AnyFloats, AnyFloats]:
        """Return the same in 32 bits, and how far two of a residual's distances can so be from their difference (B,).

        A sum of d products is off by at most d + 2 roundings of what the sizes of its terms add up to (Higham,
        Accuracy and Stability of Numerical Algorithms, 2002, section 3.1); of two sums both are. There is no bound
        where 32 bits have no room for what is so large or so small.
        """
        found = linear(torch.from_numpy(residuals), self.rough_doubled, self.rough_squares).numpy()
        lengths = np.sqrt(np.einsum("nd,nd->n", residuals, residuals)).astype(np.float64)
        sizes = max(self.longest, _SMALLEST) * (self.longest + 2 * lengths)
        errors = 2 * (residuals.shape[1] + 2) * np.finfo(np.float32).eps * sizes
        return found, np.where((sizes > _SMALLEST) & (sizes < _LARGEST), errors, np.inf)


def _leads(distances: AnyFloats, codes: Integers) -> AnyFloats:
    """Return how much farther the next of distances (B, M) is than the nearest, at codes (B,), which they lose."""
    every = np.arange(len(codes))
    nearest = distances[every, codes]
    distances[every, codes] = np.inf
    return distances[every, distances.argmin(axis=1)] - nearest


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute in this thread alone: its products here are so small that waiting for another costs more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _in_order(numbers: Integers) -> tuple[Integers, Integers]:
    """Return which of numbers (N,), none below 0, is the smallest, the next, ..., and the numbers in that order.

    Of equals the first comes first. A number and where it stands are sorted as one number, which takes less than half
    the time of sorting by numbers.
    """
    bits = len(numbers).bit_length()
    fitting = _fitting(numbers, factor=2**bits)
    pairs = fitting << bits
    pairs += np.arange(len(numbers))
    pairs.sort()
    order = pairs & (2**bits - 1)
    if fitting is not numbers:
        return order, numbers[order]
    pairs >>= bits
    return order, pairs


def _distinct(numbers: Integers) -> Integers:
    """Return the distinct ones of sorted numbers."""
    return numbers[_is_first(numbers)]


def _is_first(numbers: Integers | Floats) -> NDArray[np.bool_]:
    """Return, for each of sorted numbers, whether it is the first of its like."""
    first = np.ones(len(numbers), dtype=np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=first[1:])
    return first


def packed(codes: Integers, *, size: int) -> Integers:
    """Return codes (N, L) as one number an item (N,), in the same order; the last two codes are its last two digits.

    Base M; what comes before the last two digits is a number of what the codes there mean, not their digits, where
    digits would not fit.
    """
    place = codes[:, 0].astype(np.int64)
    all_fit = size ** codes.shape[1] <= np.iinfo(np.int64).max
    for level, column in enumerate(codes.T[1:], start=1):
        if not all_fit:
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


def _movers(paths: Paths, order: Integers, is_first: NDArray[np.bool_], *, fixed: int) -> Integers:
    """Return the items (K,) that cannot keep their codes, in the order of the rule.

    order (N,) are the items by their codes, and is_first tells for which of them no earlier one has the same. Of items
    with the same codes one of the first `fixed` comes before all others.
    """
    follows = ~is_first
    crowds = follows.copy()
    crowds[:-1] |= follows[1:]
    crowded = np.flatnonzero(crowds)
    items, follows = order[crowded], follows[crowded]
    distances = np.where(items < fixed, -1, _own_distances(paths, items))
    by_distance = np.argsort(distances)
    ranks = np.empty(len(items), dtype=np.int64)
    ranks[by_distance] = _is_first(distances[by_distance]).cumsum()
    groups = (~follows).cumsum()
    by_rank, _ = _in_order(groups * (len(items) + 1) + ranks)
    return items[by_rank][follows]  # the first of each group stays


def _own_distances(paths: Paths, items: Integers) -> Floats:
    """Return the squared distance (B,) of each of items from its own last-level code, inf where that has no place."""
    distances = np.empty(len(items))
    step = max(1, RESIDUALS // max(paths.codebooks.shape[2], 1))
    for start in range(0, len(items), step):
        part = items[start : start + step]
        places = paths.codebooks[-1].take(paths.codes[part, -1], axis=0)
        gaps = np.subtract(_last_residuals(paths, part), places, dtype=np.float64)
        distances[start : start + step] = np.einsum("nd,nd->n", gaps, gaps)
    distances[np.isnan(distances)] = np.inf
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
