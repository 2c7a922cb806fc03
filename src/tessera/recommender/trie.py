"""The trie of valid IDs as flat tables (after STATIC, arXiv 2602.22647).

IDs are sorted once, so the states of a level, numbered in that order, have consecutive children: a state is an
integer, the children of state s are states starts[s] ... starts[s + 1] - 1 of the next level, and one array holds the
token that leads to each. Beside them stands where each state's items are. For N items and L levels that is at most
3 N L integers, of 64 bits, since those are what `torch` takes as indices.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tessera.errors import DataError


class Level(NamedTuple):
    """The step from the S states of one level to the C states of the next."""

    starts: Tensor  # (S + 1,) first child of each state
    tokens: Tensor  # (C,) token that leads to each child
    spans: Tensor  # (C + 1,) first place in the trie's items of each child
    first_token: int  # smallest of tokens
    last_token: int  # largest of tokens
    width: int  # children of the state that has the most


class Children(NamedTuple):
    """The children of some states, each with room for as many as the level is wide, W."""

    nodes: Tensor  # (..., W) states of the next level
    tokens: Tensor  # (..., W)
    legal: Tensor  # (..., W) False where a state has fewer than W children


class Trie(NamedTuple):
    """Valid IDs; the leaves, children of the last level, hold items."""

    levels: tuple[Level, ...]
    items: Tensor  # (N,) items, leaf after leaf, ascending within one
    places: Tensor  # (N + 1,) where in items each item is; N for -1, which stands for no item

    def to(self, device: torch.device) -> "Trie":
        """Return the same trie on device."""
        levels = (
            level._replace(starts=level.starts.to(device), tokens=level.tokens.to(device), spans=level.spans.to(device))
            for level in self.levels
        )
        return Trie(tuple(levels), self.items.to(device), self.places.to(device))

    @property
    def leaf_starts(self) -> Tensor:
        """The first place in items of each leaf, (leaves + 1,)."""
        return self.levels[-1].spans

    @property
    def distinct(self) -> bool:
        """Whether no two items share an ID."""
        return len(self.items) == len(self.leaf_starts) - 1

    @property
    def bytes(self) -> int:
        """How much memory the tables take."""
        tables = [self.items, self.places, *(table for level in self.levels for table in level[:3])]
        return sum(table.nbytes for table in tables)


def build_trie(tokens: NDArray[np.integer[Any]]) -> Trie:
    """Return the trie of tokens (N, L), row i the ID of item i; items may share one.

    Raises DataError where there is no item.
    """
    if not tokens.size:
        raise DataError(f"trie: expected IDs of at least one item, found a table of {tokens.shape}")
    order = np.lexsort(tokens.T[::-1])
    sorted_ids = tokens[order]
    levels, is_state = [], np.zeros(len(order), bool)
    is_state[0] = True
    for level in range(tokens.shape[1]):
        is_child = is_state.copy()
        is_child[1:] |= sorted_ids[1:, level] != sorted_ids[:-1, level]
        levels.append(_level(is_state, is_child, sorted_ids[:, level]))
        is_state = is_child
    places = np.empty(len(order) + 1, dtype=np.int64)
    places[order], places[-1] = np.arange(len(order)), len(order)
    return Trie(tuple(levels), torch.from_numpy(order), torch.from_numpy(places))


def _level(is_state: NDArray[np.bool_], is_child: NDArray[np.bool_], column: NDArray[np.integer[Any]]) -> Level:
    tokens = torch.from_numpy(column[is_child].astype(np.int64))
    starts, spans = _starts(is_state, is_child), _starts(is_child, np.ones_like(is_child))
    return Level(starts, tokens, spans, int(tokens.min()), int(tokens.max()), int(starts.diff().max()))


def _starts(is_state: NDArray[np.bool_], is_child: NDArray[np.bool_]) -> Tensor:
    """Return where among the children each state's own begin, and the number of children after them."""
    children_before: NDArray[np.int64] = np.cumsum(is_child) - is_child
    return torch.from_numpy(np.append(children_before[is_state], is_child.sum()))


def children_of(level: Level, states: Tensor) -> Children:
    """Return the children of states (...), in the order of their tokens."""
    children = level.starts[states][..., None] + torch.arange(level.width, device=states.device)
    inside = children.clamp(max=len(level.tokens) - 1)
    return Children(inside, level.tokens[inside], children < level.starts[states + 1][..., None])


def path_of(trie: Trie, items: Tensor) -> list[Tensor]:
    """Return the states (B,) that each of the L tokens of the IDs of items (B,) leads to, the leaves last."""
    places = trie.places[items]
    return [torch.searchsorted(level.spans, places, right=True) - 1 for level in trie.levels]
