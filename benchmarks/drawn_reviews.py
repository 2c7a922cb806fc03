"""Review lines like those of Amazon 2018, drawn: as many as asked for, as one gzip file.

What matters for the work is as in the published dump: the fields and their order, spaces as Python's `json` puts them,
lines grouped by item, whole days, 2 lines a user and 15 an item with very many for a few, 1 line in 40 told twice. The
dump takes 146 bytes a line packed (233.1 million lines in 34 GB); these take 152, and 488 unpacked. Texts are made of
invented words, some of which are frequent and most of which are rare.
"""

import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tessera.artifacts import whole_file

Integers = NDArray[np.int64]

#: Lines a user and an item have on average, and how far the logarithms of their numbers spread.
A_USER, AN_ITEM = (2.1, 0.9), (15.3, 1.8)

#: One line in so many is told again, up to so many lines later.
REPEAT_EVERY, REPEAT_WITHIN = 40, 50

LINE = (
    '{{"overall": {}, {}"verified": {}, "reviewTime": "{}", "reviewerID": "{}", "asin": "{}", {}'
    '"reviewerName": "{}", "reviewText": "{}", "summary": "{}", "unixReviewTime": {}}}'
)

#: From 2000 to October 2018, in days.
FIRST_DAY, LAST_DAY, SECONDS_A_DAY = 10_957, 17_805, 86_400

RATINGS = ["5.0"] * 12 + ["4.0"] * 3 + ["3.0"] * 2 + ["2.0"] + ["1.0"] * 2
VERIFIED = ["true"] * 4 + ["false"]
VOTES = [""] * 7 + ['"vote": "2", ']
STYLES = [""] * 2 + ['"style": {"Color:": " Black"}, ', '"style": {"Format:": " Paperback"}, ']

#: Of the words of a text the logarithm has this mean and spread, and so many texts of each kind are drawn from.
TEXT, SUMMARY, NAME = (2.9, 1.2), (1.0, 0.6), (0.7, 0.2)
TEXTS, SUMMARIES, NAMES = 200_000, 50_000, 50_000
LONGEST = 2_000

#: How many words there are, what they are made of, and what may stand behind one, as JSON spells it.
WORDS = 20_000
LETTERS = "eeeeeetttttaaaaoooiiinnnssshhhrrrddlluucmfywgpbvk"
MARKS = [" "] * 20 + [", "] * 2 + [". "] * 2 + [".\\n\\n", "! ", "\\u2019s ", ' \\"']

#: What keys are spelled with, and a factor that makes numbers look like no numbers.
DIGITS = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", np.uint8)
SCRAMBLER = np.uint64(0x9E3779B97F4A7C15)

#: Lines drawn and packed at once, and how hard: as `gzip` does unless told otherwise.
CHUNK = 100_000
LEVEL = 6

GZIP_HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
LAST_BLOCK = b"\x03\x00"
WORD = 2**32


def write_reviews(path: Path, lines: int, *, seed: int = 0) -> None:
    """Write lines review lines to path, as one gzip member."""
    size, checksum = 0, 0
    with whole_file(path) as partial, partial.open("wb") as file, ThreadPoolExecutor(max_workers=2) as pool:
        file.write(GZIP_HEADER)
        for chunk in draw_lines(lines, draw=np.random.default_rng(seed)):
            middle = len(chunk) // 2
            file.writelines(pool.map(_packed, (chunk[:middle], chunk[middle:])))
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
        file.write(LAST_BLOCK + checksum.to_bytes(4, "little") + (size % WORD).to_bytes(4, "little"))


def _packed(content: bytes) -> bytes:
    """Return content as the part of a deflate stream."""
    packer = zlib.compressobj(LEVEL, wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush(zlib.Z_SYNC_FLUSH)


def draw_lines(lines: int, *, draw: np.random.Generator) -> Iterator[bytes]:
    """Yield lines review lines, CHUNK at a time."""
    words = _words(draw)
    texts = {
        "name": _texts(words.str.to_titlecase(), NAMES, length=NAME, marks=[" "], draw=draw),
        "text": _texts(words, TEXTS, length=TEXT, marks=MARKS, draw=draw),
        "summary": _texts(words, SUMMARIES, length=SUMMARY, marks=[" "], draw=draw),
    }
    items = _owners(lines, AN_ITEM, draw=draw)
    users = draw.permutation(_owners(lines, A_USER, draw=draw))
    for start in range(0, lines, CHUNK):
        end = min(start + CHUNK, lines)
        drawn = _spelled(
            _keys("A", users[start:end], digits=12), _keys("B00", items[start:end], digits=7), texts, draw=draw
        )
        back = draw.integers(1, REPEAT_WITHIN, end - start) * (draw.random(end - start) < 1 / REPEAT_EVERY)
        told = drawn.gather(np.maximum(np.arange(end - start) - back, 0))
        yield (told.str.join("\n").item() + "\n").encode()


def _spelled(
    users: pl.Series, items: pl.Series, texts: Mapping[str, pl.Series], *, draw: np.random.Generator
) -> pl.Series:
    """Return a line for each of users and items."""

    def one_of(values: list[str] | pl.Series) -> pl.Series:
        return pl.Series(values).gather(draw.integers(0, len(values), len(users)))

    days = pl.Series(draw.integers(FIRST_DAY, LAST_DAY, len(users)), dtype=pl.Int32)
    date, seconds = days.cast(pl.Date).dt.strftime("%m %-d, %Y"), days.cast(pl.Int64) * SECONDS_A_DAY
    about = (one_of(texts[kind]) for kind in ("name", "text", "summary"))
    values = (one_of(RATINGS), one_of(VOTES), one_of(VERIFIED), date, users, items, one_of(STYLES), *about, seconds)
    return pl.select(pl.format(LINE, *map(pl.lit, values))).to_series()


def _owners(lines: int, of: tuple[float, float], *, draw: np.random.Generator) -> Integers:
    """Return which user, or item, each line belongs to, sorted; of says how many lines one has and how this spreads."""
    average, spread = of
    share = np.exp(draw.normal(0, spread, max(1, round(lines / average))))
    return np.repeat(np.arange(share.size), draw.multinomial(lines, share / share.sum()))


def _keys(prefix: str, numbers: Integers, *, digits: int) -> pl.Series:
    """Return keys of prefix and so many digits, the same ones for the same number."""
    scrambled = (numbers.astype(np.uint64) + np.uint64(1)) * SCRAMBLER
    powers = np.uint64(len(DIGITS)) ** np.arange(digits, dtype=np.uint64)
    spelled = DIGITS[scrambled[:, None] // powers % np.uint64(len(DIGITS))]
    return prefix + pl.Series(spelled.view(f"S{digits}").ravel().astype(str))


def _words(draw: np.random.Generator) -> pl.Series:
    letters = "".join(draw.choice(list(LETTERS), 10 * WORDS))
    ends = np.cumsum(draw.integers(1, 10, WORDS))
    return pl.Series([letters[start:end] for start, end in zip(np.r_[0, ends[:-1]], ends, strict=True)])


def _texts(
    words: pl.Series, count: int, *, length: tuple[float, float], marks: list[str], draw: np.random.Generator
) -> pl.Series:
    """Return count texts; of the numbers of their words the logarithm has the mean and spread of length."""
    sizes = np.clip(draw.lognormal(*length, count).astype(int), 1, LONGEST)
    rank = (len(words) ** draw.random(sizes.sum())).astype(int) - 1
    spelled = words.gather(rank) + pl.Series(marks).gather(draw.integers(0, len(marks), len(rank)))
    table = pl.DataFrame({"text": np.repeat(np.arange(count), sizes), "word": spelled})
    return table.group_by("text", maintain_order=True).agg(pl.col("word").str.join(""))["word"].str.strip_chars()
