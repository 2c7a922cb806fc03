"""Chance that follows from names alone: the same on every machine and whatever the order of a table."""

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]

#: 64-bit FNV-1a (RFC 9923, section 5) and the finaliser of SplitMix64 (Steele, Lea, Flood 2014): shift, factor.
FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x00000100000001B3)
SPLITMIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def key_hashes(keys: pl.Series) -> Hashes:
    """Return the 64-bit FNV-1a hash of each key's UTF-8 bytes: of "a", 0xaf63dc4c8601ec8c."""
    encoded = keys.to_arrow().cast(pa.large_binary())
    _, offsets, content = encoded.buffers()
    bounds = np.frombuffer(offsets, np.int64)[encoded.offset : encoded.offset + len(encoded) + 1]
    letters = np.frombuffer(content or b"", np.uint8)
    longest_first = np.argsort(bounds[:-1] - bounds[1:], kind="stable")
    starts, lengths = bounds[longest_first], np.diff(bounds)[longest_first]
    state = np.full(len(keys), FNV_OFFSET)
    for place in range(lengths.max(initial=0)):
        longer = np.searchsorted(-lengths, -place)
        state[:longer] = (state[:longer] ^ letters[starts[:longer] + place]) * FNV_PRIME
    hashes = np.empty_like(state)
    hashes[longest_first] = state
    return hashes


def mixed(hashes: Hashes) -> Hashes:
    """Return hashes (N,) with every bit of each depending on all of its bits: SplitMix64's finaliser."""
    for shift, factor in SPLITMIX:
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    return hashes


def drawn(keys: pl.Series, *, share: float, purpose: str, seed: int) -> Integers:
    """Return the places of share of the keys (N,), which are distinct: round(share * N) of them, in drawing order.

    A key's turn follows from the key, purpose and seed by their hashes: of the same purpose and seed a larger share
    begins with a smaller one; another purpose draws independently.
    """
    turns = mixed(mixed(key_hashes(pl.Series([f"{purpose} {seed}"]))) ^ key_hashes(keys))
    return np.argsort(turns, kind="stable")[: round(share * len(keys))]
