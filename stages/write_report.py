"""Write the report: one HTML page that needs nothing else, and its tables as Markdown.

What is drawn, such as the example users, is drawn with the seed and not by how well it went. Pictures, and items of a
large catalogue, are shown up to a bound, and the page says how many are not.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer

from tessera.artifacts import named_paths, read_json, read_rows, read_table, read_tsv, whole_file
from tessera.params import PARAMS_FILE, load_params
from tessera.report.agreement import agreements_of
from tessera.report.content import (
    ENSEMBLE,
    About,
    compared_of,
    data_of,
    lacking_of,
    mismatches_of,
    rankings_of,
    sample_of,
    slices_of,
)
from tessera.report.curves import curves_of, history_of
from tessera.report.examples import draw_users, examples_of
from tessera.report.losses import kept_of
from tessera.report.neighbours import draw_items, neighbours_of
from tessera.report.origin import fingerprint, origin_of
from tessera.report.page import Content, chart_library, html_page, markdown_page, shown_keys
from tessera.report.pictures import Pictures, pictures_of, wanted_first
from tessera.report.semantic_ids import semantic_ids_of
from tessera.runtime import run
from tessera.schemas import IDS, IMAGES, INTERACTIONS, ITEMS, PER_USER, RANKINGS, USERS, VECTORS, Schema

#: Parameters that say where a stage runs, and nothing of its result.
NO_RESULT = {"device", "launcher"}

#: Users whose lists are compared.
COMPARED_USERS = 2_000


def main(
    evaluate: Annotated[Path, typer.Option(help="The measures of each ranking.")],
    intervals: Annotated[Path, typer.Option(help="Bootstrap intervals of the measures.")],
    slices: Annotated[Path, typer.Option(help="HR@10 by target frequency and history length.")],
    curve: Annotated[Path, typer.Option(help="HR@K and NDCG@K for each K.")],
    per_user: Annotated[Path, typer.Option(help="The rank of each user's target in each ranking.")],
    ensemble: Annotated[Path, typer.Option(help="The fused rankings.")],
    rankings: Annotated[list[Path], typer.Option(help="The rankings that were fused; once for each file.")],
    download: Annotated[Path, typer.Option(help="What was read and what could not be.")],
    fetch: Annotated[Path, typer.Option(help="How the fetching of pictures went.")],
    filter_: Annotated[Path, typer.Option("--filter", help="What the filter left and what it dropped.")],
    collisions: Annotated[Path, typer.Option(help="Collision rates before and after resolution.")],
    items: Annotated[Path, typer.Option(help="The items.")],
    interactions: Annotated[Path, typer.Option(help="The interactions.")],
    users: Annotated[Path, typer.Option(help="The users.")],
    vectors: Annotated[list[str], typer.Option(help="NAME=PATH of a modality's vectors; once for each.")],
    ids: Annotated[Path, typer.Option(help="The semantic IDs.")],
    images: Annotated[Path, typer.Option(help="The pictures.")],
    distill_history: Annotated[Path, typer.Option(help="The losses of the picture encoder's own training by epoch.")],
    quantizer_history: Annotated[Path, typer.Option(help="The quantizer's losses by epoch.")],
    t5_history: Annotated[Path, typer.Option(help="The T5's losses and measures by epoch.")],
    sequence_history: Annotated[Path, typer.Option(help="The sequence encoder's losses by epoch.")],
    records: Annotated[list[str], typer.Option(help="NAME=PATH of what a stage's run took; once for each.")],
    html: Annotated[Path, typer.Option(help="To write: the page.")],
    markdown: Annotated[Path, typer.Option(help="To write: the tables.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    generator = np.random.default_rng(params.seed)
    measured, drawn, filtered = read_json(evaluate), read_json(intervals), read_json(filter_)
    catalogue, ranks = read_table(items, ITEMS), read_table(per_user, PER_USER)
    semantic_ids, resolved = read_table(ids, IDS), read_json(collisions)
    files = named_paths(vectors)

    ranked = rankings_of(measured, drawn)
    members, shown = compared_of(ranked)
    shown_users = draw_users(ranks, examples=params.report.examples, generator=generator)
    compared = {*shown_users, *draw_users(ranks, examples=COMPARED_USERS, generator=generator)}
    lists = pl.concat(_rows(path, RANKINGS, "user", compared) for path in (*rankings, ensemble))
    among = draw_items(catalogue.height, generator=generator)
    near = {name: _rows(path, VECTORS, "item", among.tolist()) for name, path in files.items()}
    content = Content(
        about=About(dataset=params.dataset.name, **params.model_dump(include=set(About._fields) - {"dataset"})),
        sample=sample_of(drawn),
        rankings=ranked,
        cuts=read_json(curve),
        slices=slices_of(read_json(slices)),
        examples=examples_of(
            shown_users,
            interactions=_rows(interactions, INTERACTIONS, "user", shown_users),
            rankings=lists,
            names=shown,
            items=catalogue,
            keys=_rows(users, USERS, "user", shown_users),
        ),
        agreements=agreements_of(ranks, lists, catalogue, members=members, ensemble=ENSEMBLE),
        ids=semantic_ids_of(
            semantic_ids,
            catalogue,
            resolved,
            _lent({name: path for name, path in files.items() if name in params.modalities}, resolved),
            codebook_size=params.quant.codebook_size,
            levels=params.quant.levels,
            generator=generator,
        ),
        neighbours=neighbours_of(
            {name: table for name, table in near.items() if table.height},
            semantic_ids,
            catalogue,
            generator=generator,
        ),
        curves=curves_of(
            distillation=read_tsv(distill_history),
            quantizer=read_tsv(quantizer_history),
            t5=history_of(read_json(t5_history)),
            sequence=read_tsv(sequence_history),
        ),
        data=data_of(filtered),
        kept=kept_of(download=read_json(download), fetch=read_json(fetch), filtered=filtered, collisions=resolved),
        lacking=lacking_of(filtered),
        mismatches=mismatches_of(filtered),
        origin=origin_of(
            {name: read_json(path) for name, path in named_paths(records).items()},
            params.model_dump(mode="json", exclude=NO_RESULT),
            list(map(fingerprint, (images, items, interactions, users, *files.values(), ids, *rankings, ensemble))),
        ),
        pictures=Pictures([], {}, frozenset()),
    )
    content = _with_pictures(content, catalogue, images)
    pages = {html: html_page(content, library=chart_library()), markdown: markdown_page(content)}
    for path, page in pages.items():
        with whole_file(path) as partial:
            partial.write_text(page, encoding="utf-8")


def _with_pictures(content: Content, catalogue: pl.DataFrame, images: Path) -> Content:
    """Return content with the pictures of what it shows, as far as the page has room for them."""
    keys, left_out = wanted_first(shown_keys(content), frozenset(catalogue.filter("has_picture")["key"]))
    found = _rows(images, IMAGES, "key", keys).drop_nulls("picture").select("key", "picture")
    return content._replace(pictures=pictures_of(dict(found.iter_rows()), left_out=left_out))


def _lent(vectors: Mapping[str, Path], collisions: Mapping[str, Any]) -> pl.DataFrame:
    """Return the items (item, modality) that were given the codes of another, since they have no vector."""
    found = [pl.DataFrame(schema={"item": VECTORS["item"], "modality": pl.String})]
    for name, measured in collisions.items():
        if measured.get("items_lent_a_path"):
            paths = [vectors[name]] if name in vectors else list(vectors.values())  # a joint ID is of all vectors
            tables = [read_table(path, VECTORS, columns=["item", "present"]) for path in paths]
            there = pl.concat(tables).filter("present")["item"].unique()
            absent = tables[0].filter(~pl.col("item").is_in(there.implode()))
            found.append(absent.select("item", modality=pl.lit(name)))
    return pl.concat(found)


def _rows(path: Path, schema: Schema, column: str, wanted: Collection[object]) -> pl.DataFrame:
    """Return the rows of a table that have one of the wanted values in a column; the others stay on disk.

    Raises TableError where path is no table of schema.
    """
    return read_rows(path, schema, pl.col(column).is_in(list(wanted)))


if __name__ == "__main__":
    run(main)
