"""A few users as they are: what they had, what each ranking recommends them, and what they took next."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import polars as pl

#: How much of a history is shown, the latest items, and how much of a ranking.
SHOWN_HISTORY: Final = 7
SHOWN_RANKING: Final = 10


class Entry(NamedTuple):
    """An item as it is shown."""

    key: str
    title: str
    is_target: bool
    is_seen: bool  # in the history before the target


class Recommended(NamedTuple):
    """What a ranking recommends a user."""

    ranking: str
    rank: int | None  # of the target in the ranking, None where it is not there
    length: int  # of the ranking
    entries: list[Entry]  # the first of the ranking, rank 1 first

    @property
    def is_hit(self) -> bool:
        """Whether the target is among the items that are shown."""
        return any(entry.is_target for entry in self.entries)


class Example(NamedTuple):
    """A user's test case."""

    user: str  # the user's key
    history: list[Entry]  # the latest items before the target, in the user's order
    earlier: int  # items before those
    target: Entry
    recommended: list[Recommended]  # in the order of the rankings, that of the system last

    @property
    def entries(self) -> list[Entry]:
        """All that is shown."""
        return [*self.history, self.target, *(entry for each in self.recommended for entry in each.entries)]


def draw_users(ensemble: pl.DataFrame, *, examples: int, generator: np.random.Generator) -> list[int]:
    """Return so many users with a test ranking (columns split and user), drawn without a look at how good it is.

    There are fewer where there are no more. The result is sorted.
    """
    users = ensemble.filter(split="test")["user"].unique().sort().to_numpy()
    drawn = generator.choice(users, size=min(examples, len(users)), replace=False)
    return sorted(drawn.tolist())


def examples_of(
    users: list[int],
    *,
    interactions: pl.DataFrame,
    rankings: pl.DataFrame,
    names: Sequence[str],
    items: pl.DataFrame,
    keys: pl.DataFrame,
) -> list[Example]:
    """Return the test case of each user.

    interactions has user, item, position and split; rankings has split, user, modality, rank and item, and of its
    modalities those of names are shown, in that order; items has item, key and title, keys has user and key.
    """
    named = items.select("item", "key", "title")
    key_of = dict(keys.filter(pl.col("user").is_in(users)).select("user", "key").iter_rows())
    histories = interactions.filter(pl.col("user").is_in(users)).join(named, on="item").sort("position")
    lists = rankings.filter(pl.col("user").is_in(users), split="test").join(named, on="item").sort("rank")
    return [
        _example(key_of[user], history=histories.filter(user=user), lists=lists.filter(user=user), names=names)
        for user in users
    ]


def _example(user: str, *, history: pl.DataFrame, lists: pl.DataFrame, names: Sequence[str]) -> Example:
    target = history.filter(split="test").row(0, named=True)
    before = history.filter(pl.col("position") < target["position"])
    seen = set(before["item"])

    def entries(table: pl.DataFrame) -> list[Entry]:
        return [
            Entry(key, title, is_target=item == target["item"], is_seen=item in seen)
            for item, key, title in table.select("item", "key", "title").iter_rows()
        ]

    def recommended(name: str) -> Recommended:
        ranking = lists.filter(modality=name)
        ranks = ranking.filter(item=target["item"])["rank"].to_list()
        return Recommended(name, ranks[0] if ranks else None, ranking.height, entries(ranking.head(SHOWN_RANKING)))

    return Example(
        user=user,
        history=entries(before.tail(SHOWN_HISTORY)),
        earlier=max(0, before.height - SHOWN_HISTORY),
        target=Entry(target["key"], target["title"], is_target=True, is_seen=target["item"] in seen),
        recommended=[recommended(name) for name in names],
    )
