"""The plain reading of a trie's tables."""

from collections.abc import Iterator

from tessera.recommender.trie import Trie


def walk(trie: Trie) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Yield every ID with its items, in the order of the IDs."""

    def below(level: int, state: int, path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        if level == len(trie.levels):
            yield path, trie.items[trie.leaf_starts[state] : trie.leaf_starts[state + 1]].tolist()
            return
        starts, tokens, *_ = trie.levels[level]
        for child in range(int(starts[state]), int(starts[state + 1])):
            yield from below(level + 1, child, (*path, int(tokens[child])))

    yield from below(0, 0, ())
