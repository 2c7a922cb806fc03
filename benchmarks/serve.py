"""Recommending with the library: many histories at once, on the model of the last run, the demo's by default.

Ours is `Recommender.recommend_all` of all users' histories, from keys to titles; the peer is `Recommender.recommend`,
one history at a time, as a service without a queue would call it. Both must give the same: scores of equal rank must be
within 1e-4 of each other, and how many lists are the same item by item is told.

The peer serves users taken at even distances from those of ours. The limit is what the processor's matrix rate allows
for the products of encoder and decoder, of all rankings that the T5 makes, on histories without padding.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer
from published import decoder_operations, encoder_operations
from side_by_side import Case, alternate, matrix_rate, report

from tessera.artifacts import read_table
from tessera.recommender.corpus import histories as histories_of
from tessera.recommender.model import Sizes
from tessera.schemas import INTERACTIONS
from tessera.tasks import scoring
from tessera.using.recommender import IdRanker, Recommendation, Recommender

SAME_SCORE = 1e-4

#: Users whose histories both sides serve before the clock runs: what comes first takes longer.
FIRST = 4

Lists = list[list[Recommendation]]


def main(
    to: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
    full: Annotated[bool, typer.Option("--full", help="More users for the peer.")] = False,
    model: Annotated[Path, typer.Option(help="A repository in which the pipeline has run.")] = Path(),
    peer_users: Annotated[int, typer.Option(help="Users of the peer in a run.")] = 100,
    runs: Annotated[int, typer.Option(help="Runs of each.")] = 3,
) -> None:
    """Compare many histories at once with one at a time."""
    recommender = Recommender.load(model)
    everyone = test_histories(recommender)
    count = min(len(everyone), 500 if full else peer_users)
    asked = ((np.arange(count) + 0.5) * len(everyone) / count).astype(int).tolist()
    recommender.recommend_all(everyone[:FIRST])
    found = alternate(
        peer=lambda: [recommender.recommend(everyone[user]) for user in asked],
        ours=lambda: recommender.recommend_all(everyone),
        runs=runs,
    )
    ours: Lists = [found.our_result[user] for user in asked]
    params, users = recommender.shop.params, len(everyone)
    case = Case(
        f"{params.system} on {params.dataset.name}, {recommender.shop.items.height:,} items",
        "users/s",
        peer=count / found.peer,
        ours=users / found.ours,
        limit=matrix_rate() * users / operations(recommender, everyone),
        facts={
            "milliseconds of one alone": 1e3 * found.peer / count,
            "largest difference of a score": difference(ours, found.peers_result),
            "share of lists that are the same": float(
                np.mean([keys(one) == keys(other) for one, other in zip(ours, found.peers_result, strict=True)])
            ),
        },
    )
    report("serve", [case], to=to)


def test_histories(recommender: Recommender) -> list[list[str]]:
    """Return what each user had before its test item, as keys."""
    table = read_table(recommender.shop.parts["interactions"], INTERACTIONS)
    found = histories_of(table, split="test", max_history=table.height)
    owners = np.repeat(np.arange(len(found.users)), found.lengths)
    rows = pl.DataFrame({"user": owners, "key": recommender.shop.items["key"].gather(found.before)})
    return rows.group_by("user", maintain_order=True).agg("key")["key"].to_list()


def operations(recommender: Recommender, histories: list[list[str]]) -> float:
    """Return the operations of all searches that the T5 makes after histories; other rankings count as nothing."""
    params = recommender.shop.params
    sizes = Sizes(**params.t5.model_dump(include=set(Sizes._fields)))
    read = np.array([min(len(history), params.corpus.max_history) for history in histories])
    total = 0.0
    for ranker in [each for each in recommender.rankers if isinstance(each, IdRanker)]:
        for task in scoring(ranker.words.tasks, "none"):
            lengths = 1 + read * ranker.tokens[task.source].shape[1]
            levels = ranker.tokens[task.target].shape[1]
            steps = 1 + (levels - 1) * params.decode.beams
            total += encoder_operations(lengths, sizes=sizes) + decoder_operations(
                tokens=steps, seen=levels / 2, lengths=lengths, vocabulary=recommender.shop.words.size, sizes=sizes
            )
    return total


def keys(found: list[Recommendation]) -> list[str]:
    """Return the keys of a list."""
    return [each.key for each in found]


def difference(ours: Lists, theirs: Lists) -> float:
    """Return how far scores of equal rank are apart; raise ValueError where that tells of another result."""
    apart = max(
        abs(one.score - other.score)
        for mine, their in zip(ours, theirs, strict=True)
        for one, other in zip(mine, their, strict=True)
    )
    if apart > SAME_SCORE:
        raise ValueError(f"serve: expected the scores of the peer within {SAME_SCORE}, found them {apart} apart")
    return apart


if __name__ == "__main__":
    typer.run(main)
