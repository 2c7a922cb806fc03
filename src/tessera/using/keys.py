"""Items by their keys: what an unknown one may have meant, and how a text of a source is printed."""

import difflib
from typing import Final

import polars as pl

from tessera.errors import DataError

#: An unknown key brings up so many known ones, at least so alike (difflib's ratio, 0 to 1).
SUGGESTIONS: Final = 3
LIKENESS: Final = 0.6

#: They are sought among the keys that share the most pieces of so many letters with it.
SHORTLIST: Final = 200
PIECE: Final = 3


def near_items(key: str, items: pl.DataFrame) -> list[tuple[str, str]]:
    """Return key and title of the items whose keys are most like key, the most alike first."""
    folded = items["key"].str.to_lowercase()
    pieces = {key.lower()[start : start + PIECE] for start in range(max(1, len(key) - PIECE + 1))}
    shared = sum(folded.str.contains(piece, literal=True).cast(pl.UInt16) for piece in sorted(pieces))
    shortlist = items.select("key", "title").with_columns(shared=shared).filter(pl.col("shared") > 0)
    near = {row[0].lower(): row for row in shortlist.top_k(SHORTLIST, by="shared").select("key", "title").iter_rows()}
    return [near[match] for match in difflib.get_close_matches(key.lower(), near, SUGGESTIONS, LIKENESS)]


def unknown_key(key: str, items: pl.DataFrame, *, trained: int, expected: str = "the key of an item") -> DataError:
    """Return the error of a key that none of items (key, title) has: it names the keys that are near.

    trained is how many of items the run had; the others were added.

    It may well be the key of an item, one that had too few interactions and was left out.
    """
    near = [f"\n  {known}  {printable(title)}" for known, title in near_items(key, items)]
    found = f"found none; near it are{''.join(near)}" if near else "found none like it"
    added = f", {items.height - trained:,} were added" if items.height > trained else ""
    kept = f"filter_reviews kept {trained:,} items{added}, and others have no ID"
    return DataError(f"{printable(key)}: expected {expected}, {found}\n  {kept}")


def printable(text: str) -> str:
    """Return text without the control characters by which a title could take hold of the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
