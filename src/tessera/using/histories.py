"""Histories of many users from a file: interactions a row, or a list of keys a row."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tessera.errors import SourceError
from tessera.items.filtering import Ties, distinct_interactions, in_order, numbered
from tessera.items.folder import CATEGORY_SEPARATOR, columns_of, listed, read_interaction_file, read_records
from tessera.items.lines import as_text
from tessera.items.raw_items import has_object, texts_of
from tessera.runtime import log

#: The columns of a file with a list a row.
LISTS = ("user", "history")


class UserHistories(NamedTuple):
    """The histories of users, each the keys of items with the oldest first."""

    users: list[str]
    histories: list[list[str]]


def read_histories(path: Path, *, ties: Ties, max_malformed: float, min_rating: float | None = None) -> UserHistories:
    """Return what the file at path (.csv, .jsonl, .parquet) tells of users.

    With a column `history` each row is a user and its list of keys, the oldest first; in CSV a list is written as in
    JSON, or as `B1|B2`. Otherwise the file has the columns user, item and timestamp, like the interactions of one's own
    data; a user's are put in order as the pipeline does, a repeated one counts once, and one rated below min_rating not
    at all.

    Rows that are no interactions are warned of, and so are users of whom no interaction counts: their histories are
    empty. Raises SourceError where the file cannot be read or lacks a column, and
    where a row is no history or a user's second, or a larger share than max_malformed of the rows is no interaction.
    """
    if "history" not in columns_of(path):
        reviews, tally = read_interaction_file(path, max_malformed=max_malformed)
        warn_of_malformed(path, tally.malformed, rows=tally.lines, wanted="interactions")
        return _of_interactions(reviews, path=path, ties=ties, min_rating=min_rating)
    found, known = UserHistories([], []), set[str]()
    for row, record in read_records(path, expected=LISTS):
        user = None if record is None else as_text(record.get("user"))
        if record is None or not user or "\ufffd" in user or "history" not in record:
            raise SourceError(f"{path}: expected a user and a history in each row, found none in row {row}")
        if user in known:
            raise SourceError(f"{path}: expected each user once, found {user} again in row {row}")
        known.add(user)
        history = listed(record["history"])
        if isinstance(history, str) and not history.startswith("["):
            history = listed(history, separator=CATEGORY_SEPARATOR)
        if not isinstance(history, list | None) or has_object(history):
            raise SourceError(f"{path}: expected a list of keys, found {record['history']!r} in row {row}")
        found.users.append(user)
        found.histories.append(texts_of(history))
    return found


def warn_of_malformed(path: Path, malformed: Mapping[str, int], *, rows: int, wanted: str) -> None:
    """Warn of rows of a file that are not what is wanted, by what was wrong with them, if there are any."""
    if lost := sum(malformed.values()):
        reasons = ", ".join(f"{problem} {count}" for problem, count in sorted(malformed.items()) if count)
        log.warning("%s: %d of %d rows are no %s: %s", path, lost, rows, wanted, reasons)


def _of_interactions(reviews: pl.DataFrame, *, path: Path, ties: Ties, min_rating: float | None) -> UserHistories:
    kept = distinct_interactions(reviews, min_rating=min_rating)
    lost = reviews["user_key"].unique(maintain_order=True)
    lost = lost.filter(~lost.is_in(kept["user_key"].unique().implode()))
    if len(lost):
        log.warning(
            "%s: filter.min_rating = %s leaves nothing of %d users, such as %s; %d of %d interactions have no rating",
            path,
            min_rating,
            len(lost),
            lost[0],
            reviews["rating"].null_count(),
            reviews.height,
        )
    lists = in_order(numbered(kept), ties=ties).group_by("user_key", maintain_order=True).agg("item_key")
    return UserHistories([*lists["user_key"], *lost], [*lists["item_key"].to_list(), *([] for _ in lost)])
