"""The corpus of all three splits and six tasks: `tessera.recommender.corpus.samples` beside strings and a tokenizer.

The peer does what the released code of the field does, with today's means: IDs as strings such as <a_12><b_7>, joined
a history, and a tokenizer to which they were added, in its fast form: the Rust one of `tokenizers`, in batches, on all
cores, without offsets. Peer and ours begin with interactions and codes in memory; ours ends with tables, the peer with
lists of tokens, and neither writes a file: what Parquet costs is told as a fact. The token sequences must be equal,
token by token of the two vocabularies.

The limit is that of copying: the bytes of the corpus at the measured rate of copying memory.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import numpy as np
import polars as pl
import typer
from instruments import CODES, LEVELS, MAX_HISTORY, MODALITIES, Instruments, instruments, times_larger
from numpy.typing import NDArray
from side_by_side import Case, Growth, alternate, copy_rate, median_seconds, report
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing

from tessera.artifacts import table_writer
from tessera.recommender.corpus import SPLITS, samples
from tessera.recommender.vocabulary import END, Vocabulary
from tessera.schemas import CORPUS
from tessera.tasks import FIRST_FREE, Task

RUNS = 2
SIZES = [1, 2, 5, 10, 20]
BATCH = 10_000

#: Letters of the levels, as published: small ones for the first modality, capitals for the second.
LETTERS = {"text": "abcdefgh", "image": "ABCDEFGH"}


def main(
    to: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Let the peer do the largest size too: minutes.")] = False,
    users: Annotated[int | None, typer.Option(help="Take so many users only.")] = None,
) -> None:
    """Measure both on Instruments, and ours alone on up to twenty times Instruments."""
    one = instruments()
    if users is not None:
        one = one._replace(interactions=one.interactions.filter(pl.col("user") < users))
    vocabulary = one.vocabulary()
    strings = Strings.of(one.codes, vocabulary)
    require_equal(one, vocabulary, strings)
    cases, work, seconds = list[Case](), list[float](), list[float]()
    for factor in SIZES:
        data = times_larger(one, factor)
        if factor == 1 or (full and factor == max(SIZES)):
            cases.append(compared(data, factor, vocabulary, strings))
        work.append(data.interactions.height)
        seconds.append(median_seconds(partial(count_ours, data, vocabulary), runs=RUNS))
    facts: dict[str, float | str] = {
        "interactions": one.source,
        "seconds to write as Parquet": seconds_of_writing(one, vocabulary),
    }
    cases[0] = cases[0]._replace(facts=facts)
    report("corpus", cases, growth=[Growth("corpus of six tasks", "interactions", work, seconds)], to=to)


class Made(NamedTuple):
    """Some samples as a peer makes them: lists of tokens."""

    sources: list[list[int]]
    targets: list[list[int]]


class Strings(NamedTuple):
    """What the peer starts from: each item's ID as a string, each task's first word, and the tokenizer."""

    ids: dict[str, list[str]]
    prefixes: dict[Task, str]
    tokenizer: Tokenizer

    @classmethod
    def of(cls, codes: Mapping[str, NDArray[np.integer[Any]]], vocabulary: Vocabulary) -> "Strings":
        """Return the strings of codes, modality -> (N, L)."""
        ids = {
            modality: [
                "".join(f"<{letter}_{code}>" for letter, code in zip(LETTERS[modality], row, strict=False))
                for row in table.tolist()
            ]
            for modality, table in codes.items()
        }
        prefixes = {
            task: f"<task_{vocabulary.prefix(task)[0]}>" if vocabulary.prefix(task) else "" for task in vocabulary.tasks
        }
        tokenizer = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1}, unk_token="<pad>"))
        tokenizer.add_tokens(words_of(vocabulary)[FIRST_FREE:])
        tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
        return cls(ids, prefixes, tokenizer)


def words_of(vocabulary: Vocabulary) -> list[str]:
    """Return the word that the peer uses for each token of vocabulary."""
    tasks = [f"<task_{vocabulary.prefix(task)[0]}>" for task in vocabulary.tasks if vocabulary.prefix(task)]
    levels = [f"{letter}_" for modality in MODALITIES for letter in LETTERS[modality][:LEVELS]]
    return ["<pad>", "</s>", *tasks, *(f"<{level}{code}>" for level in levels for code in range(CODES))]


def ours(data: Instruments, vocabulary: Vocabulary) -> Iterator[tuple[Task, pl.DataFrame]]:
    """Yield the tables of all splits."""
    for split in SPLITS:
        yield from samples(data.interactions, data.codes, vocabulary, split=split, max_history=MAX_HISTORY)


def peers(data: Instruments, vocabulary: Vocabulary, strings: Strings) -> Iterator[Made]:
    """Yield the samples of all splits, batch by batch, in the order of ours."""
    ordered = data.interactions.sort("user", "position")
    grouped = ordered.group_by("user", maintain_order=True).agg("item")
    users = grouped["item"].to_list()
    for split in SPLITS:
        for task in vocabulary.tasks:
            if task.kind == "history":
                texts = history_texts(users, task, split, strings)
            elif split == "train":
                texts = list(zip(strings.ids[task.source], strings.ids[task.target], strict=True))
            else:
                continue
            for start in range(0, len(texts), BATCH):
                yield tokenized(texts[start : start + BATCH], strings.prefixes[task], strings.tokenizer)


def history_texts(users: list[list[int]], task: Task, split: str, strings: Strings) -> list[tuple[str, str]]:
    """Return source and target of each sample as strings."""
    source, target = strings.ids[task.source], strings.ids[task.target]
    texts = []
    for items in users:
        last = len(items) - len(SPLITS)  # place of the last training item
        places = range(1, last + 1) if split == "train" else [last + SPLITS.index(split)]
        for place in places:
            history = items[max(0, place - MAX_HISTORY) : place]
            texts.append(("".join([source[item] for item in history]), target[items[place]]))
    return texts


def tokenized(texts: list[tuple[str, str]], prefix: str, tokenizer: Tokenizer) -> Made:
    """Return the tokens of texts."""
    sources = tokenizer.encode_batch_fast([prefix + source for source, _ in texts])
    targets = tokenizer.encode_batch_fast([target for _, target in texts])
    return Made([each.ids for each in sources], [each.ids for each in targets])


def count_ours(data: Instruments, vocabulary: Vocabulary) -> int:
    """Make the tables of all splits and return how many samples they have."""
    return sum(table.height for _, table in ours(data, vocabulary))


def count_peers(data: Instruments, vocabulary: Vocabulary, strings: Strings) -> int:
    """Make the peer's samples of all splits and return how many there are."""
    return sum(len(made.sources) for made in peers(data, vocabulary, strings))


def compared(data: Instruments, factor: int, vocabulary: Vocabulary, strings: Strings) -> Case:
    """Return both on data; raise where they do not make as many samples."""
    both = alternate(
        peer=lambda: count_peers(data, vocabulary, strings),
        ours=lambda: count_ours(data, vocabulary),
        runs=RUNS if factor == 1 else 1,
    )
    count = both.our_result
    assert count == both.peers_result
    least = sum(table.estimated_size() for _, table in ours(data, vocabulary)) / copy_rate()
    return Case(f"{factor} x Instruments", "samples/s", count / both.peer, count / both.ours, count / least, {})


def require_equal(data: Instruments, vocabulary: Vocabulary, strings: Strings) -> None:
    """Raise where the peer's words are not those that our tokens mean."""
    meant = np.array([strings.tokenizer.token_to_id(word) for word in words_of(vocabulary)])
    made = peers(data, vocabulary, strings)
    for task, table in ours(data, vocabulary):
        for part in table.iter_slices(BATCH):
            theirs = next(made)
            for column, lists in (("source", theirs.sources), ("target", theirs.targets)):
                tokens = part[column].explode(empty_as_null=False).to_numpy()
                assert part[column].list.len().to_list() == list(map(len, lists)), f"{task}: {column}s of other lengths"
                assert np.array_equal(meant[tokens], np.concatenate(lists)), f"{task}: other {column}s"
    assert next(made, None) is None


def seconds_of_writing(data: Instruments, vocabulary: Vocabulary) -> float:
    """Return the seconds that the stage's way of writing takes for the tables."""
    tables = [table for _, table in ours(data, vocabulary)]
    with TemporaryDirectory() as folder:

        def write_all() -> None:
            with table_writer(Path(folder, "corpus.parquet"), CORPUS) as write:
                for table in tables:
                    write(table)

        return median_seconds(write_all, runs=RUNS)


if __name__ == "__main__":
    typer.run(main)
