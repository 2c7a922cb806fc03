"""The tree of the semantic IDs of a modality, as far as a page can hold it, and what the items of a node share."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import polars as pl

#: Items of a modality's tree that are shown; beyond them the largest nodes stand for the others.
SHOWN_ITEMS: Final = 1200

#: A node of at most so many items lists them instead of further nodes.
LEAF: Final = 12

#: Of a larger tree each node shows at most, and at least, so many of the nodes below it.
MOST_BRANCHES, FEWEST_BRANCHES = 48, 3

#: Pictures that stand for a node before it is opened.
STRIP: Final = 6

#: Items of a node of which something is said, and how many of them have to share a word of their titles. A word that
#: is nearly as frequent everywhere is none of theirs.
FEWEST, SHARED, RARER, SHARED_WORDS = 3, 0.6, 2.0, 3

_WORD: Final = re.compile(r"[^\W\d_]{3,}")


class Item(NamedTuple):
    """An item with an ID."""

    key: str
    title: str
    category: str  # or nothing
    codes: list[int]


class Node(NamedTuple):
    """The items whose codes begin alike."""

    code: int | None  # None at the root
    items: int
    category: str  # that most of them have, or nothing
    share: float  # of the items that have it
    words: list[str]  # that most of their titles hold, and few others
    strip: list[Item]
    nodes: list["Node"]
    leaves: list[Item]
    nodes_left_out: int
    items_left_out: int  # in nodes or leaves that are not shown here


class Titles(NamedTuple):
    """The words of titles."""

    of_key: Mapping[str, frozenset[str]]
    shares: Mapping[str, float]  # of all titles that hold a word


def items_with_ids(ids: pl.DataFrame, items: pl.DataFrame, categories: Sequence[str]) -> list[Item]:
    """Return the items (item, key, title) of one modality's ids (item, codes), in the order of their codes.

    categories are those of items, in the same order.
    """
    named = items.select("item", "key", "title").with_columns(category=pl.Series(categories, dtype=pl.String))
    joined = ids.select("item", "codes").join(named, on="item").sort("codes", "key")
    return [Item(*row) for row in joined.select("key", "title", "category", "codes").iter_rows()]


def tree_of(items: Sequence[Item], *, shown: int = SHOWN_ITEMS) -> Node:
    """Return the tree of items, of which at most about so many are shown: all, or those of the largest nodes."""
    return _node(None, items, depth=0, shown=shown, titles=words_of(items))


def _node(code: int | None, items: Sequence[Item], *, depth: int, shown: int, titles: Titles) -> Node:
    category, share = commonest(items)
    branches = _branches(items, depth) if len(items) > LEAF else {}
    nodes: list[Node] = []
    if branches:
        most = len(branches)
        if len(items) > shown:
            most = min(MOST_BRANCHES, max(FEWEST_BRANCHES, shown // (2 * LEAF)))
        largest = sorted(branches, key=lambda branch: (-len(branches[branch]), branch))[:most]
        part = shown if len(items) <= shown else max(1, shown // len(largest))
        nodes = [
            _node(branch, branches[branch], depth=depth + 1, shown=part, titles=titles) for branch in sorted(largest)
        ]
    leaves = [] if branches else list(items[: max(1, min(shown, len(items)))])
    return Node(
        code=code,
        items=len(items),
        category=category,
        share=share,
        words=shared_words(items, titles),
        strip=list(items[:: max(1, -(-len(items) // STRIP))]),
        nodes=nodes,
        leaves=leaves,
        nodes_left_out=len(branches) - len(nodes),
        items_left_out=len(items) - sum(node.items for node in nodes) - len(leaves),
    )


def _branches(items: Sequence[Item], depth: int) -> dict[int, list[Item]]:
    """Return items by their code at depth; nothing where one of them has none, since such items share an ID."""
    branches: dict[int, list[Item]] = {}
    for item in items:
        if len(item.codes) <= depth:
            return {}
        branches.setdefault(item.codes[depth], []).append(item)
    return branches


def commonest(items: Sequence[Item]) -> tuple[str, float]:
    """Return the category that most items have, and the share of those with a category that have it; or "", 0."""
    counts = Counter(item.category for item in items if item.category)
    if not counts:
        return "", 0.0
    category, count = min(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return category, count / counts.total()


def words_of(items: Sequence[Item]) -> Titles:
    """Return the words of the titles of items, in lower case, and how frequent each is."""
    of_key = {item.key: frozenset(_WORD.findall(item.title.lower())) for item in items}
    counts = Counter(word for words in of_key.values() for word in words)
    return Titles(of_key, {word: count / len(items) for word, count in counts.items()})


def shared_words(items: Sequence[Item], titles: Titles) -> list[str]:
    """Return the words that most titles of items hold and few others, the most shared first."""
    if len(items) < FEWEST:
        return []
    counts = Counter(word for item in items for word in titles.of_key[item.key])
    shares = {word: count / len(items) for word, count in counts.items()}
    told = [word for word, share in shares.items() if share >= SHARED and share >= RARER * titles.shares[word]]
    return sorted(told, key=lambda word: (-shares[word], word))[:SHARED_WORDS]


def shown_of(roots: Iterable[Node]) -> list[str]:
    """Return the keys of the items that the trees below roots show, each once.

    They go level by level through all trees together, so that a page with room for some pictures has them where it is
    looked at first, and of every modality.
    """
    keys: list[str] = []
    level = list(roots)
    while level:
        keys += [item.key for node in level for item in (*node.strip, *node.leaves)]
        level = [below for node in level for below in node.nodes]
    return list(dict.fromkeys(keys))
