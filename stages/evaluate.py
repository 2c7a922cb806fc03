"""Fuse the rankings of the modalities, and measure each ranking on the validation and the test items.

Rankings without semantic IDs are fused with them and measured beside them. Where the fusion is learned, it is from the
targets of the validation split, whose ensemble is then measured on what it was learned from. Every user has one target
a split and the whole catalogue is ranked; popularity, the floor, stands beside the others. `final` is what the system
recommends: the ensemble, or the only ranking there is, or popularity where there is none.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer

from tessera.artifacts import read_table, scan_table, table_writer, write_json, write_table
from tessera.measures import FINAL
from tessera.params import PARAMS_FILE, load_params
from tessera.recommender.fusion import ENSEMBLE, USERS_AT_ONCE, Weight, fuse, weights_table
from tessera.recommender.fusion_fitting import learn_weights
from tessera.recommender.metrics import (
    Floats,
    bootstrap_intervals,
    measure,
    measure_cuts,
    measure_slices,
    ranks_by_ranking,
    ranks_by_warmth,
)
from tessera.recommender.popularity import POPULARITY, items_by_popularity, rank_by_popularity
from tessera.recommender.targets import (
    check_rankings,
    doubts,
    find_targets,
    found_targets,
    lists_of,
    names_of,
    parts_of,
    target_ranks,
)
from tessera.runtime import log, run
from tessera.schemas import INTERACTIONS, PER_USER, RANKINGS, WEIGHTS

#: Keys of the metrics beside the rankings.
RESERVED = (ENSEMBLE, POPULARITY, FINAL, "valid", "cold", "warm")


def main(
    rankings: Annotated[list[Path], typer.Option(help="The best items of each user and ranking; several times.")],
    interactions: Annotated[Path, typer.Option(help="The interactions; those of valid and test are the targets.")],
    per_user: Annotated[Path, typer.Option(help="To write: the rank of each user's target in each ranking.")],
    ensemble: Annotated[Path, typer.Option(help="To write: the fused rankings, or popularity's where there are none.")],
    weights: Annotated[Path, typer.Option(help="To write: what each ranking weighs, where that is learned.")],
    metrics: Annotated[Path, typer.Option(help="To write: the measures of each ranking.")],
    slices: Annotated[Path, typer.Option(help="To write: HR@10 and NDCG@10 by target frequency and history length.")],
    curve: Annotated[Path, typer.Option(help="To write: HR@K and NDCG@K for each K, on the test split.")],
    intervals: Annotated[Path, typer.Option(help="To write: bootstrap intervals of the measures.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    section = params.eval
    single = pl.concat(scan_table(path, RANKINGS) for path in rankings)
    history = read_table(interactions, INTERACTIONS)
    targets = find_targets(history)
    check_rankings(single, targets, items=history["item"].n_unique(), reserved=RESERVED)
    for doubt in doubts(single, targets):
        log.warning(doubt)

    names = names_of(single)
    beams = params.decode.beams
    longest = single.select(pl.col("rank").max()).collect(engine="streaming").item() or beams
    popular, seen = items_by_popularity(history), history if params.decode.exclude_seen else None
    learned = _learned(single, targets) if params.decode.fusion == "learned" else {}
    final = ENSEMBLE if len(names) > 1 else next(iter(names), POPULARITY)
    found = []
    with table_writer(ensemble, RANKINGS) as write:
        for part in parts_of(targets, most=USERS_AT_ONCE):
            lists, floor = lists_of(single, part), rank_by_popularity(part, popular, length=longest, seen=seen)
            fused = fuse(lists, rule=params.decode.fusion, cut=beams, weights=learned) if names else floor
            if fused.height:
                write(fused)
            compared = [lists, fused, floor] if final == ENSEMBLE else [lists, floor]
            found += [found_targets(each, part) for each in compared]
    everything = [*names, ENSEMBLE, POPULARITY] if final == ENSEMBLE else [*names, POPULARITY]
    of_users = target_ranks(pl.concat(found), targets, names=everything)
    ranks = ranks_by_ranking(of_users)
    bounds = {"target_frequency": section.frequency_bounds, "history_length": section.history_bounds}

    write_table(per_user, of_users, PER_USER)
    write_table(weights, weights_table(learned), WEIGHTS)
    write_json(metrics, _document(ranks | ranks_by_warmth(of_users), measure, final=final))
    write_json(slices, measure_slices(of_users, bounds=bounds))
    write_json(curve, measure_cuts(ranks["test"], longest=longest))

    def drawn(of_ranking: Floats) -> Mapping[str, object]:
        generator = np.random.default_rng(params.seed)  # anew, so that no ranking's interval depends on another
        return bootstrap_intervals(
            of_ranking, confidence=section.confidence, resamples=section.resamples, generator=generator
        )

    write_json(
        intervals,
        {
            "confidence": section.confidence,
            "resamples": section.resamples,
            "users": {split: targets.filter(split=split).height for split in ranks},
            "intervals": _document(ranks, drawn, final=final),
        },
    )


def _learned(rankings: pl.LazyFrame, targets: pl.DataFrame) -> dict[str, Weight]:
    """Return what each ranking weighs, learned on the validation split, and tell it."""
    is_valid = pl.col("split") == "valid"
    weights = learn_weights(rankings.filter(is_valid), targets.filter(is_valid))
    for name, weight in weights.items():
        log.info("%s weighs %.2f a unit of score, and %.2f for holding an item", name, weight.score, weight.held)
    return weights


def _document(
    ranks: dict[str, dict[str, Floats]], of: Callable[[Floats], Mapping[str, object]], *, final: str
) -> dict[str, object]:
    """Return what `of` makes of each test ranking, `final` among them, and of other rankings under their split's name.

    These are `valid`, and `cold` and `warm` where there are test targets of both kinds.
    """
    by_split = {split: {name: of(each) for name, each in rankings.items()} for split, rankings in ranks.items()}
    for rankings in by_split.values():
        rankings[FINAL] = rankings[final]
    return {**by_split.pop("test"), **by_split}


if __name__ == "__main__":
    run(main)
