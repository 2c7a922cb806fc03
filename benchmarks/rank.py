"""Ranking items by beam search: 20 beams, the T5 of the published size, the test histories of Instruments.

Ours is the search of the stage rank_items. The peer is what everyone uses: `generate` of `transformers` with
`prefix_allowed_tokens_fn` over a dictionary of prefixes, its cache switched on, histories in the order of their users,
each batch padded to its longest. Both run in float32, as the stage does, on the same weights, and must find the same
items: the lists are compared, and where two neighbours have changed places their scores must be within 1e-4 of each
other. Each run has a process of its own, since ours has the C library keep freed memory, as every stage does, and makes
its search once before it is timed, as the peer does with its first batch. A peer that keeps freed memory too ranks 56
users a second, where it ranks 24 without (medians of three, on the machine of the README).

The peer ranks users taken at even distances from those of ours. The first case has the trie of the 6,250 items, the
second one of a million random IDs. The limit is what the device's matrix rate allows for the products of encoder and
decoder on histories without padding, those counted that ours looks up (queries, keys and values of first layers). Ours
includes making its reader, which a stage does once.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from instruments import CODES, MAX_HISTORY, Instruments, distinct_ids, instruments
from paper import PAPER
from published import Vocabularies, decoder_operations, encoder_operations, vocabularies
from side_by_side import Case, Growth, alternate_apart, matrix_rate, median_seconds, report
from torch import Tensor
from transformers import T5ForConditionalGeneration

from tessera.recommender.batches import Rows, samples_of
from tessera.recommender.beam import Beams
from tessera.recommender.corpus import samples
from tessera.recommender.ranking import rank
from tessera.recommender.readers import reader_of
from tessera.recommender.trie import Trie, build_trie
from tessera.recommender.vocabulary import END, PAD, Tokens
from tessera.runtime import keep_freed_memory

BEAMS = PAPER.decode.beams
SAME_SCORE = 1e-4

#: Users of which is measured how their time grows with other things than their number.
FEW = 256
MODALITY = "text"


class Asked(NamedTuple):
    """What is to be ranked: for a process of its own, which finds all else anew."""

    items: int | None  # random ones; None for those of Instruments
    users: int | None  # at even distances; None for all
    device: str


class Work(NamedTuple):
    """Users and the trie of the items to rank for them."""

    model: T5ForConditionalGeneration
    tokens: Tokens  # (N, L)
    trie: Trie
    source: Rows
    interactions: str  # "published" or "drawn"

    @classmethod
    def of(cls, asked: Asked) -> "Work":
        """Return what asked names."""
        data = instruments()
        known = vocabularies(data)
        tokens = known.tokens[MODALITY]
        if asked.items is not None:
            tokens = known.vocabulary.tokens(MODALITY, distinct_ids(asked.items, draw=np.random.default_rng(0)))
        source = test_histories(data, known)
        if asked.users is not None:
            source = source.take(spread(len(source.lengths), asked.users))
        return cls(known.model().eval().to(asked.device), tokens, build_trie(tokens), source, data.source)


def main(
    to: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
    full: Annotated[bool, typer.Option("--full", help="All users, and more of them for the peer.")] = False,
    users: Annotated[int, typer.Option(help="Users of ours in a run.")] = 1024,
    peer_users: Annotated[int, typer.Option(help="Users of the peer in a run.")] = 32,
    many_items: Annotated[int, typer.Option(help="Items of the large trie.")] = 1_000_000,
    batch_size: Annotated[int, typer.Option(help="Users a batch.")] = 64,
    runs: Annotated[int, typer.Option(help="Runs of each.")] = 3,
    peer_batch_size: Annotated[int, typer.Option(help="Users a batch of the peer.")] = 32,
    growth: Annotated[bool, typer.Option(help="Measure how the time grows with the work.")] = True,
    device: Annotated[str, typer.Option(help="Where both rank: cpu or cuda.")] = "cpu",
) -> None:
    """Compare the search of the stage with `generate`."""
    peer_users = 256 if full else peer_users
    works = [Asked(items, None if full else users, device) for items in (None, many_items)]
    rate = matrix_rate(device)
    cases = [
        compared(
            asked,
            ours=partial(our_search, asked, batch_size),
            peer=partial(peer_search, asked, peer_users, peer_batch_size),
            runs=runs,
            rate=rate,
        )
        for asked in works
    ]
    keep_freed_memory()
    grows = grown(Work.of(works[0]), batch_size=batch_size) if growth else []
    report("rank", cases, to=to, growth=grows, device=device)


def test_histories(data: Instruments, known: Vocabularies) -> Rows:
    """Return the sources of the recommendation task for the test split."""
    for task, table in samples(data.interactions, data.codes, known.vocabulary, split="test", max_history=MAX_HISTORY):
        if task.is_recommendation and task.source == MODALITY:
            return samples_of(table).source
    raise LookupError(MODALITY)


def spread(rows: int, count: int) -> Tensor:
    """Return count of rows at even distances."""
    return torch.from_numpy(((np.arange(count) + 0.5) * rows / count).astype(np.int64))


class Found(NamedTuple):
    """What a search found, and the seconds that it took."""

    items: np.ndarray  # (U, K)
    scores: np.ndarray  # (U, K)
    seconds: float

    @property
    def beams(self) -> Beams:
        """The items and scores as a search returns them."""
        return Beams(torch.from_numpy(self.items), torch.from_numpy(self.scores))


def our_search(asked: Asked, batch_size: int) -> Found:
    """Return what ours finds for the users that are asked for."""
    keep_freed_memory()
    work = Work.of(asked)
    search = partial(ranked, work, batch_size=batch_size)
    return timed(search, first=search)


def peer_search(asked: Asked, users: int, batch_size: int) -> Found:
    """Return what the peer finds for so many of the users that are asked for."""
    work = Work.of(asked)
    few, prefixes = spread(len(work.source.lengths), users), prefixes_of(work.tokens)
    search = partial(generated, work, prefixes=prefixes, batch_size=batch_size)
    return timed(partial(search, few), first=partial(search, few[:batch_size]))


def timed(search: Callable[[], Beams], *, first: Callable[[], object]) -> Found:
    """Return what search finds after first was done, which is not timed."""
    first()
    start = time.perf_counter()
    found = search()  # on a GPU, too, it ends with its lists on the CPU
    seconds = time.perf_counter() - start
    return Found(found.items.numpy(), found.scores.numpy(), seconds)


def compared(asked: Asked, *, ours: Callable[[], Found], peer: Callable[[], Found], runs: int, rate: float) -> Case:
    """Return the case of what is asked; raise ValueError where the two find different items."""
    found = alternate_apart(ours=ours, peer=peer, runs=runs)
    work, (our, their) = Work.of(asked), (side[-1].result for side in (found.ours, found.peer))
    few = spread(len(our.items), len(their.items))
    mine, theirs = Beams(*(part[few] for part in our.beams)), their.beams
    our_seconds, peer_seconds = (median(each.result.seconds for each in side) for side in (found.ours, found.peer))
    lengths = work.source.lengths.numpy()
    tokens = 1 + (work.tokens.shape[1] - 1) * BEAMS
    operations = encoder_operations(lengths) + decoder_operations(
        tokens=tokens, seen=work.tokens.shape[1] / 2, lengths=lengths, vocabulary=len(work.model.lm_head.weight)
    )
    return Case(
        f"{len(work.tokens):,} items" + (f", {asked.device}" if asked.device != "cpu" else ""),
        "users/s",
        peer=len(few) / peer_seconds,
        ours=len(lengths) / our_seconds,
        limit=rate * len(lengths) / operations,
        facts={
            "interactions": work.interactions,
            "largest difference of a score": difference(mine, theirs),
            "share of the peer's lists that are the same": float((mine.items == theirs.items).all(1).double().mean()),
            "megabytes of the trie": work.trie.bytes / 1e6,
            "milliseconds a step and user": 1e3 * our_seconds / len(lengths) / work.tokens.shape[1],
        },
    )


def ranked(work: Work, *, batch_size: int = 64, beams: int = BEAMS) -> Beams:
    """Return what ours finds."""
    return rank(reader_of(work.model), work.trie, work.source, beams=beams, batch_size=batch_size, renormalise=False)


class Prefixes(NamedTuple):
    """What may follow each beginning of an ID, and whose the whole IDs are."""

    after: dict[tuple[int, ...], list[int]]
    items: dict[tuple[int, ...], list[int]]


def prefixes_of(tokens: Tokens) -> Prefixes:
    """Return the dictionaries that the peer looks prefixes up in."""
    after: dict[tuple[int, ...], dict[int, None]] = {}
    items: dict[tuple[int, ...], list[int]] = {}
    for item, path in enumerate(map(tuple, tokens.tolist())):
        items.setdefault(path, []).append(item)
        for depth, token in enumerate(path):
            after.setdefault(path[:depth], {})[token] = None
    return Prefixes({prefix: sorted(following) for prefix, following in after.items()}, items)


@torch.inference_mode()
def generated(work: Work, users: Tensor, *, prefixes: Prefixes, batch_size: int) -> Beams:
    """Return what `generate` finds for users (U,)."""
    batches = [generated_batch(work, rows, prefixes) for rows in users.split(batch_size)]
    return Beams(torch.cat([batch.items for batch in batches]), torch.cat([batch.scores for batch in batches]))


def generated_batch(work: Work, users: Tensor, prefixes: Prefixes) -> Beams:
    """Return what `generate` finds for a batch of users; an item that shares its ID with others stands for them."""
    model: Any = work.model
    source = work.source.padded(users).to(model.device)
    found = model.generate(
        input_ids=source,
        attention_mask=(source != PAD).long(),
        num_beams=BEAMS,
        num_return_sequences=BEAMS,
        max_new_tokens=work.tokens.shape[1],
        prefix_allowed_tokens_fn=lambda _, prefix: prefixes.after.get(tuple(prefix.tolist()[1:]), [END]),
        output_scores=True,
        return_dict_in_generate=True,
        length_penalty=1.0,
        early_stopping=True,
        do_sample=False,
    )
    paths = found.sequences[:, 1:].tolist()
    scores = found.sequences_scores.view(len(users), BEAMS).tolist()
    lists = [list_of(paths[row * BEAMS : (row + 1) * BEAMS], scores[row], prefixes) for row in range(len(users))]
    return Beams(torch.tensor([items for items, _ in lists]), torch.tensor([scores for _, scores in lists]))


def list_of(paths: list[list[int]], scores: list[float], prefixes: Prefixes) -> tuple[list[int], list[float]]:
    """Return the BEAMS best items and scores of IDs: items that share one stand side by side."""
    pairs = [(item, score) for path, score in zip(paths, scores, strict=True) for item in prefixes.items[tuple(path)]]
    return [item for item, _ in pairs[:BEAMS]], [score for _, score in pairs[:BEAMS]]


def difference(ours: Beams, theirs: Beams) -> float:
    """Return how far scores of equal rank are apart; raise ValueError where that, or the items, tell of another result.

    Items may stand in another order where their scores are as near as that, and at the end of a list another may.
    """
    apart = float((ours.scores - theirs.scores).abs().max())
    if apart > SAME_SCORE:
        raise ValueError(f"rank: expected the scores of the peer within {SAME_SCORE}, found them {apart} apart")
    for mine, scores, their in zip(ours.items.tolist(), ours.scores.tolist(), theirs.items.tolist(), strict=True):
        missing = set(mine) - set(their)
        if any(scores[mine.index(item)] > scores[-1] + SAME_SCORE for item in missing):
            raise ValueError(f"rank: expected the items {their} of the peer, found {mine}")
    return apart


def grown(work: Work, *, batch_size: int) -> list[Growth]:
    """Return how the time of 256 users grows with beams, history and items, and all time with the users."""
    levels, first = work.tokens.shape[1], int(work.tokens.min())
    everyone = len(work.source.lengths)
    few = work._replace(source=work.source.take(spread(everyone, FEW)))

    def of_length(length: int) -> Work:
        tokens = length * levels + 1
        values = torch.full((FEW * tokens,), END, dtype=torch.int32)
        return work._replace(source=Rows(values, torch.arange(FEW + 1) * tokens))

    def among(items: int) -> Work:
        codes = distinct_ids(items, draw=np.random.default_rng(0))
        return few._replace(trie=build_trie(codes + first + CODES * np.arange(levels)))

    def seconds(works: Iterable[Work], *, beams: int = BEAMS) -> list[float]:
        search = partial(ranked, batch_size=batch_size, beams=beams)
        return [median_seconds(partial(search, each), runs=3) for each in works]

    ranked(few, batch_size=batch_size)  # what comes first takes longer
    users, beams, histories, items = (
        [64, 128, 256, 512, 1024],
        [5, 10, 20, 50, 100],
        [1, 2, 5, 10, 20],
        [10**3, 10**4, 10**5, 10**6],
    )
    by_users = seconds(work._replace(source=work.source.take(spread(everyone, count))) for count in users)
    by_beams = [seconds([few], beams=count)[0] for count in beams]
    by_history, by_items = seconds(map(of_length, histories)), seconds(map(among, items))
    return [
        Growth("ranking by users", "users", users, by_users),
        Growth(f"ranking {FEW} users by beams", "beams", beams, by_beams),
        Growth(f"ranking {FEW} users by history", "items", histories, by_history),
        Growth(f"ranking {FEW} users by items", "items", items, by_items),
    ]


if __name__ == "__main__":
    typer.run(main)
