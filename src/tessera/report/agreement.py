"""Where the rankings of the modalities agree, and where only one of them finds what the user took next."""

from collections.abc import Sequence
from itertools import combinations
from typing import Final, NamedTuple

import polars as pl

from tessera.report.examples import Entry

#: A target among so many first items is a hit.
CUT: Final = 10

#: Targets that are shown of those that one ranking alone finds.
SHOWN_TARGETS: Final = 5


class Cell(NamedTuple):
    """The users of whom both, one or none of two rankings finds the target."""

    name: str
    users: int
    share: float  # of all users
    found_together: float | None  # share of them whose target the ensemble finds; None without users or ensemble
    shown: list[Entry]  # targets of some of them


class Agreement(NamedTuple):
    """How two rankings agree."""

    rankings: tuple[str, str]
    common: float | None  # mean share of the first CUT items that both have; None where no user is in both
    compared: int  # users whose items were compared
    cells: list[Cell]  # both, the first alone, the second alone, none


def agreements_of(
    per_user: pl.DataFrame, rankings: pl.DataFrame, items: pl.DataFrame, *, members: Sequence[str], ensemble: str
) -> list[Agreement]:
    """Return how each two of members agree on the test split.

    per_user has split, user, ranking, item (the target) and rank; rankings has split, user, modality, rank and item, of
    some of the users; items has item, key and title.
    """
    hits = pl.col("rank").is_not_null() & (pl.col("rank") <= CUT)
    found = (
        per_user.filter(split="test")
        .select("user", "item", "ranking", hit=hits)
        .pivot("ranking", index=["user", "item"])
    )
    lists = rankings.filter(pl.col("rank") <= CUT, split="test")
    of_member = {name: lists.filter(modality=name) for name in members}
    return [
        Agreement(
            rankings=(one, other),
            common=common_share(of_member[one], of_member[other]),
            compared=of_member[one].join(of_member[other], on="user", how="semi")["user"].n_unique(),
            cells=_cells(found.sort("user"), one, other, ensemble=ensemble, items=items),
        )
        for one, other in combinations(members, 2)
    ]


def common_share(one: pl.DataFrame, other: pl.DataFrame) -> float | None:
    """Return the mean, over users in both, of the share of one's items (user, item) that the other has."""
    sizes = one.filter(pl.col("user").is_in(other["user"].unique().implode())).group_by("user").len("size").sort("user")
    both = one.join(other, on=["user", "item"]).group_by("user").len("both")
    # In the order of the users: a sum that is taken in another has another last digit.
    joined = sizes.join(both, on="user", how="left", maintain_order="left")
    shares = joined.select(pl.col("both").fill_null(0) / pl.col("size"))
    return float(shares.to_series().to_numpy().mean()) if shares.height else None


def _cells(found: pl.DataFrame, one: str, other: str, *, ensemble: str, items: pl.DataFrame) -> list[Cell]:
    first, second = pl.col(one), pl.col(other)
    parts = {
        "both": first & second,
        f"only {one}": first & ~second,
        f"only {other}": second & ~first,
        "neither": ~first & ~second,
    }
    return [
        _cell(name, found.filter(part), of=found.height, ensemble=ensemble, items=items) for name, part in parts.items()
    ]


def _cell(name: str, users: pl.DataFrame, *, of: int, ensemble: str, items: pl.DataFrame) -> Cell:
    together = float(users[ensemble].to_numpy().mean()) if ensemble in users.columns and users.height else None
    targets = users.unique("item", keep="first", maintain_order=True).head(SHOWN_TARGETS)
    named = targets.join(items, on="item", maintain_order="left").select("key", "title")
    shown = [Entry(key, title, is_target=True, is_seen=False) for key, title in named.iter_rows()]
    return Cell(name, users.height, users.height / of if of else 0.0, together, shown)
