"""Rank items for many users: batches by length, beam search, rescoring, a share of the users each process, one table.

Letters: S histories, K items of a list, C candidates of a user.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier, Lock
from typing import Any, Final, NamedTuple

import polars as pl
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import T5ForConditionalGeneration

from tessera.recommender.batches import Rows, batches_by_length, rows_of, samples_of
from tessera.recommender.beam import Beams, beam_search
from tessera.recommender.lists import IMPOSSIBLE, NOTHING, rankings_table
from tessera.recommender.readers import Reader, reader_of
from tessera.recommender.rescoring import candidates_of, score_items
from tessera.recommender.trie import Trie, build_trie
from tessera.recommender.vocabulary import Tokens, Vocabulary
from tessera.tasks import Rescoring, scoring

_STARTING: Final = Lock()


class Share(NamedTuple):
    """One process of several: rows process, process + processes, ... are its own."""

    process: int
    processes: int

    def of(self, rows: int) -> Tensor:
        """Return the places of this share among rows."""
        return torch.arange(rows)[self.process :: self.processes]


class Decoding(NamedTuple):
    """How IDs become lists of items."""

    beams: int
    batch_size: int
    renormalise: bool
    rescoring: Rescoring


class Ranked(NamedTuple):
    """One task's rankings: columns split, user, modality, rank (from 1), item, score."""

    ranking: str  # the column modality
    users: int
    table: pl.DataFrame


def rank_users(
    model: T5ForConditionalGeneration,
    corpus: pl.DataFrame,
    tokens: Mapping[str, Tokens],
    words: Vocabulary,
    decoding: Decoding,
    *,
    split: str,
    interactions: pl.DataFrame | None,
    accelerator: Accelerator,
    progress: Callable[..., Iterable[Tensor]],
) -> Iterator[Ranked]:
    """Yield the rankings of each task of words that scores, for the users of the corpus table of split.

    tokens maps a modality to the tokens (N, L) of all items. Where interactions are given, the items that a user has
    before the target are left out. Every process yields the rankings of all users, of which it ranked its share.
    progress(batches, title=...) wraps the batches.
    """
    users, sources = pl.Series(), dict[str, Rows]()
    for task in scoring(words.tasks, "none"):
        rows = corpus.filter(pl.col("task") == str(task))
        users, sources[task.source] = rows["user"], samples_of(rows).source
    mine = Share(accelerator.process_index, accelerator.num_processes).of(len(users))
    for ranking, found in rank_by_tasks(
        reader_of(model),
        words,
        tries_of(words, tokens, decoding),
        {modality: source.take(mine) for modality, source in sources.items()},
        decoding,
        seen=None if interactions is None else _seen_before(split, interactions, users).take(mine),
        progress=lambda batches, *, title: progress(batches, title=f"{split} {title}"),
    ):
        everyone = _of_all_processes(found, accelerator, rows=len(users))
        table = rankings_table(
            everyone.items.numpy(), everyone.scores.numpy(), users=users, split=split, modality=ranking
        )
        yield Ranked(ranking, len(users), table)


def tries_of(words: Vocabulary, tokens: Mapping[str, Tokens], decoding: Decoding) -> dict[str, Trie]:
    """Return the tries of the IDs, by modality, that the tasks of words that score tell."""
    targets = dict.fromkeys(task.target for task in scoring(words.tasks, decoding.rescoring))
    return {modality: build_trie(tokens[modality]) for modality in targets}


def rank_by_tasks(
    reader: Reader,
    words: Vocabulary,
    tries: Mapping[str, Trie],
    sources: Mapping[str, Rows],
    decoding: Decoding,
    *,
    seen: Rows | None,
    progress: Callable[..., Iterable[Tensor]],
) -> Iterator[tuple[str, Beams]]:
    """Yield the name and the lists of each task of words that scores, after S histories.

    tries and sources are by modality; sources[m] holds what the task that recommends reads of the histories in m. seen
    holds the items that each must not be recommended. A list has K = decoding.beams items or, where they are scored
    anew, all C = M K candidates of the M lists that the beams found. progress(batches, title=...) wraps the batches.
    """
    lists = []
    for task in scoring(words.tasks, "none"):
        found = rank(
            reader,
            tries[task.target],
            sources[task.source],
            beams=decoding.beams,
            batch_size=decoding.batch_size,
            renormalise=decoding.renormalise,
            seen=seen,
            progress=partial(progress, title=task.ranking),
        )
        if decoding.rescoring == "none":
            yield task.ranking, found
        else:
            lists.append(found.items)
    if decoding.rescoring == "none":
        return
    candidates = candidates_of(lists)
    for task in scoring(words.tasks, decoding.rescoring):
        yield (
            task.ranking,
            rescore(
                reader,
                tries[task.target],
                sources[task.source],
                candidates,
                prefix=words.prefix(task),
                batch_size=decoding.batch_size,
                renormalise=decoding.renormalise,
                progress=partial(progress, title=f"{task.ranking} rescored"),
            ),
        )


def rank(
    reader: Reader,
    trie: Trie,
    source: Rows,
    *,
    beams: int,
    batch_size: int,
    renormalise: bool,
    seen: Rows | None = None,
    progress: Callable[[list[Tensor]], Iterable[Tensor]] = iter,
) -> Beams:
    """Return the beams best items of each row of source, in the order of the rows and on the CPU.

    The search runs where the model of reader is. seen holds the items that each row must not be recommended. progress
    wraps the batches.
    """
    device = reader.network.device
    trie = trie.to(device)

    def search(rows: Tensor) -> Beams:
        return beam_search(
            reader,
            trie,
            source.padded(rows).to(device),
            beams=beams,
            renormalise=renormalise,
            seen=None if seen is None else seen.padded(rows, filler=-1).to(device),
        )

    return _by_batches(search, source, device, width=beams, batch_size=batch_size, progress=progress)


def rescore(
    reader: Reader,
    trie: Trie,
    source: Rows,
    candidates: Tensor,
    *,
    prefix: tuple[int, ...],
    batch_size: int,
    renormalise: bool,
    progress: Callable[[list[Tensor]], Iterable[Tensor]] = iter,
) -> Beams:
    """Return the candidates (S, C) of each row of source, ascending after any NOTHING, in the order of their scores.

    prefix are the tokens that stand before each row. Equal scores stand in ascending order of their items.
    """
    device = reader.network.device
    trie = trie.to(device)
    begin = torch.tensor(prefix, dtype=torch.long)

    def score(rows: Tensor) -> Beams:
        some = candidates[rows]
        some = some[:, int((some == NOTHING).sum(dim=1).min()) :].to(device)
        read = torch.cat([begin.expand(len(rows), -1), source.padded(rows)], dim=1).to(device)
        scores = score_items(reader, trie, read, some, renormalise=renormalise)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        return Beams(some.gather(1, order), scores)

    width = candidates.shape[1]
    return _by_batches(score, source, device, width=width, batch_size=batch_size, progress=progress)


def _by_batches(
    search: Callable[[Tensor], Beams],
    source: Rows,
    device: torch.device,
    *,
    width: int,
    batch_size: int,
    progress: Callable[[list[Tensor]], Iterable[Tensor]],
) -> Beams:
    """Return what search finds for the rows of source, on device, as lists of width items on the CPU."""
    found = _nothing(len(source.lengths), width)
    batches = batches_by_length(source.lengths, batch_size=batch_size)
    for rows, batch in zip(progress(batches), _in_parallel(search, batches, device), strict=True):
        length = batch.items.shape[1]
        found.items[rows, :length], found.scores[rows, :length] = batch.items.cpu(), batch.scores.cpu()
    return found


def _in_parallel(search: Callable[[Tensor], Beams], batches: Sequence[Tensor], device: torch.device) -> Iterator[Beams]:
    """Yield what search finds for each of batches: on a CPU as many of them at once as there are threads.

    Threads that share a batch wait for each other at every operation, and for long where another program uses a core
    too; with a batch for each there is nothing to wait for, and the number of threads changes no score.
    """
    if device.type != "cpu":
        yield from map(search, batches)
        return
    with _threads_apart() as pool:
        yield from pool.map(search, batches)


def _threads_apart() -> ThreadPoolExecutor:
    """Return as many threads as torch has, each of which computes alone.

    What a thread sets for itself holds for all that start later too. So it is set back as soon as these have started,
    before another call, in another thread of a server, looks at it.
    """
    with _STARTING:
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        together = Barrier(threads)
        try:
            for started in [pool.submit(together.wait) for _ in range(threads)]:
                started.result()
        finally:
            together.abort()  # nobody waits for one that could not be started
            torch.set_num_threads(threads)
    return pool


def _nothing(rows: int, width: int) -> Beams:
    return Beams(torch.full((rows, width), NOTHING), torch.full((rows, width), IMPOSSIBLE))


def _seen_before(split: str, interactions: pl.DataFrame, users: pl.Series) -> Rows:
    """Return the items that each of users has before his target in split."""
    targets = interactions.filter(pl.col("split") == split).select("user", target="position")
    earlier = interactions.join(targets, on="user").filter(pl.col("position") < pl.col("target"))
    lists = users.to_frame().join(earlier.group_by("user").agg("item"), on="user", how="left", maintain_order="left")
    return rows_of(lists["item"].fill_null([]))


def _of_all_processes(found: Beams, accelerator: Accelerator, *, rows: int) -> Beams:
    """Return the results of all processes, each of its Share of rows, in the order of the rows."""
    if accelerator.num_processes == 1:
        return found
    return Beams(*(_interleaved(part, accelerator, rows=rows) for part in found))


def _interleaved(part: Tensor, accelerator: Accelerator, *, rows: int) -> Tensor:
    padded: Any = accelerator.pad_across_processes(part.to(accelerator.device), dim=0)
    together: Tensor = accelerator.gather(padded)
    return together.unflatten(0, (accelerator.num_processes, -1)).transpose(0, 1).flatten(0, 1)[:rows].cpu()
