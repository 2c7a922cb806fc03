"""Rank items for every user by who took what: systems without semantic IDs, one ranking each."""

from functools import partial
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from tessera.artifacts import read_table, table_writer, write_json, write_table
from tessera.params import PARAMS_FILE, Params, load_params
from tessera.recommender.corpus import histories
from tessera.recommender.factors import AlsSettings, BprSettings, bpr_scores, fit_als, fit_bpr, item_factors
from tessera.recommender.linear import SlistSettings, fit_slist
from tessera.recommender.lists import HistoryRanker, rank_histories, rankings_table
from tessera.recommender.members import Fitted, ranker_of
from tessera.recommender.strengths import Sparse, strengths_in, strengths_table
from tessera.recommender.transitions import Weights, transition_matrix
from tessera.runtime import log, progress, run, torch_device
from tessera.schemas import INTERACTIONS, RANKINGS, STRENGTHS, VECTORS


def main(
    interactions: Annotated[Path, typer.Option(help="Interactions with positions and splits.")],
    encoder: Annotated[Path, typer.Option(help="The trained sequence encoder: a folder.")],
    rankings: Annotated[Path, typer.Option(help="Where the rankings go.")],
    factors: Annotated[Path, typer.Option(help="Where the items' factors by ALS go, empty if it is no member.")],
    strengths: Annotated[Path, typer.Option(help="Where SLIST's strengths go, empty if it is no member.")],
    metrics: Annotated[Path, typer.Option(help="Where their counts go.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    table = read_table(interactions, INTERACTIONS)
    items = table["item"].n_unique()
    write_table(factors, als_factors(table, items=items, params=params), VECTORS)
    write_table(strengths, slist_strengths(table, items=items, params=params), STRENGTHS)

    def strengths_of(member: str) -> Sparse:
        if member == "itemknn":
            return transition_matrix(table, items=items, weights=Weights(**params.itemknn.model_dump()))
        return strengths_in(read_table(strengths, STRENGTHS), items=items)

    fitted = Fitted(
        recency={"itemknn": params.itemknn.recency, "slist": params.slist.recency},
        strengths=strengths_of,
        als=AlsSettings(**params.als.model_dump()),
        factors=lambda: read_table(factors, VECTORS),
        encoder=encoder,
        device=lambda: torch_device(params.device),
    )
    counts: dict[str, dict[str, int]] = {}
    with table_writer(rankings, RANKINGS) as write:
        for member in params.collaborative.members:
            rank = ranker(member, table, fitted, items=items, params=params)
            for split in ("valid", "test"):
                found = histories(table, split=split, max_history=params.corpus.max_history)
                seen = histories(table, split=split, max_history=table.height) if params.decode.exclude_seen else None
                told = partial(progress, title=f"{split} {member}")
                lists = rank(found, length=params.decode.beams, seen=seen, progress=told)
                scores = lists.scores / params.collaborative.tokens
                ranked = rankings_table(lists.items, scores, users=pl.Series(found.users), split=split, modality=member)
                write(ranked)
                if ranked.is_empty() and len(found.users):
                    log.warning("%s: ranks no item for any %s user", member, split)
                counts.setdefault(split, {})[f"{member}_users"] = len(found.users)
                counts[split][f"{member}_rows"] = ranked.height
    write_json(metrics, counts)


def als_factors(table: pl.DataFrame, *, items: int, params: Params) -> pl.DataFrame:
    """Return the factors of all items by ALS; an empty table where no ranking is asked of it."""
    if "als" not in params.collaborative.members:
        return pl.DataFrame(schema=VECTORS)
    return item_factors(fit_als(table, items=items, settings=AlsSettings(**params.als.model_dump()), seed=params.seed))


def slist_strengths(table: pl.DataFrame, *, items: int, params: Params) -> pl.DataFrame:
    """Return how strongly items call for each other by SLIST; an empty table where no ranking is asked of it."""
    if "slist" not in params.collaborative.members:
        return pl.DataFrame(schema=STRENGTHS)
    return strengths_table(fit_slist(table, items=items, settings=SlistSettings(**params.slist.model_dump())))


def ranker(member: str, table: pl.DataFrame, fitted: Fitted, *, items: int, params: Params) -> HistoryRanker:
    """Return what ranks items after histories by the system that member names."""
    if member == "bpr":
        settings = BprSettings(**params.bpr.model_dump())
        bpr = fit_bpr(table, items=items, settings=settings, seed=params.seed)
        return partial(rank_histories, partial(bpr_scores, bpr), items=items)
    return ranker_of(member, fitted, items=items, max_history=params.corpus.max_history)


if __name__ == "__main__":
    run(main)
