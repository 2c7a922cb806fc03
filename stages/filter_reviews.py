"""Keep users and items that have k interactions with each other, put these in order, and hold out the last ones."""

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from tessera.artifacts import read_table, write_json, write_table
from tessera.items.catalogue import described, lacking, present_keys
from tessera.items.filtering import (
    counted,
    dense_interactions,
    in_order,
    interactions_with,
    numbered,
    statistics,
)
from tessera.items.hashing import drawn
from tessera.items.splits import leave_one_out, points_in_time, split_by_time, split_sizes, without_training
from tessera.params import PARAMS_FILE, Filter, load_params
from tessera.runtime import log, run
from tessera.schemas import IMAGES, INTERACTIONS, ITEMS, RAW_ITEMS, REVIEWS, USERS


def main(
    reviews: Annotated[Path, typer.Option(help="Every review that could be read.")],
    items: Annotated[Path, typer.Option(help="What the source says of each item.")],
    images: Annotated[Path, typer.Option(help="The pictures of the items that may be kept.")],
    interactions: Annotated[Path, typer.Option(help="Where the interactions go, with positions and splits.")],
    kept_items: Annotated[Path, typer.Option(help="Where the items that remain go, their text cleaned.")],
    users: Annotated[Path, typer.Option(help="Where the users that remain go.")],
    metrics: Annotated[Path, typer.Option(help="Where the counts go: what is left, what was dropped and why.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    k = params.filter.k
    dense = dense_interactions(read_table(reviews, REVIEWS), min_rating=params.filter.min_rating, k=k)
    catalogue = described(
        dense.interactions["item_key"].unique().sort(),
        items=read_table(items, RAW_ITEMS),
        statuses=read_table(images, IMAGES, columns=["key", "status"]),
    )
    present = present_keys(catalogue, params.filter.required)
    left = interactions_with(dense.interactions, present, k=k)
    for reason, sizes in left.dropped.items():
        if sizes["items"]:
            log.info(
                "%s: %d items and %d interactions left out; filter.required = [] keeps them",
                reason,
                sizes["items"],
                sizes["interactions"],
            )
    kept, about_split = split(in_order(numbered(left.interactions), ties=params.filter.ties), params.filter)

    known = catalogue.join(counted(kept, "item"), on="key", maintain_order="right")
    found = statistics(kept)
    expected = params.dataset.expected.model_dump() if params.dataset.expected else {}
    for what, count in expected.items():
        if found[what] != count:
            log.warning("%s: expected %d %s, found %d", params.dataset.name, count, what, found[what])

    write_table(interactions, kept.select(list(INTERACTIONS)), INTERACTIONS)
    write_table(kept_items, known.select(list(ITEMS)), ITEMS)
    write_table(users, counted(kept, "user"), USERS)
    dropped = dense.dropped | left.dropped
    about = {"splits": split_sizes(kept), "dropped": dropped, "lacking": lacking(known), "expected": expected}
    write_json(metrics, found | about | about_split)


def split(ordered: pl.DataFrame, how: Filter) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the interactions with their splits, and what is to be told of these."""
    about = {}
    if how.split == "time":
        points = points_in_time(ordered, valid_from=how.valid_from, test_from=how.test_from)
        kept, about = split_by_time(ordered, points), points._asdict()
    else:
        kept = leave_one_out(ordered)
    items = counted(kept, "item")
    cold = items["item"].gather(drawn(items["key"], share=how.cold_items, purpose="cold items", seed=how.seed))
    if len(cold):
        kept, about = without_training(kept, cold), about | {"cold_items": len(cold)}
    return kept, about


if __name__ == "__main__":
    run(main)
