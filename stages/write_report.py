"""Write the report: one HTML page that needs nothing else, and its tables as Markdown.

The example users are drawn with the seed, not by how well they were served.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer

from tessera.artifacts import read_json, read_table, whole_file
from tessera.errors import TableError
from tessera.params import PARAMS_FILE, load_params
from tessera.report.content import (
    About,
    codes_of,
    data_of,
    dropped_of,
    lacking_of,
    mismatches_of,
    rankings_of,
    sample_of,
    slices_of,
)
from tessera.report.examples import draw_users, examples_of, shown_keys
from tessera.report.page import Content, html_page, markdown_page
from tessera.report.pictures import data_urls
from tessera.runtime import run
from tessera.schemas import IDS, INTERACTIONS, ITEMS, RANKINGS


def main(
    evaluate: Annotated[Path, typer.Option(help="The measures of each ranking.")],
    intervals: Annotated[Path, typer.Option(help="Bootstrap intervals of the measures.")],
    slices: Annotated[Path, typer.Option(help="HR@10 by target frequency and history length.")],
    filter_: Annotated[Path, typer.Option("--filter", help="What the filter left and what it dropped.")],
    collisions: Annotated[Path, typer.Option(help="Collision rates before and after resolution.")],
    items: Annotated[Path, typer.Option(help="The items.")],
    interactions: Annotated[Path, typer.Option(help="The interactions.")],
    ids: Annotated[Path, typer.Option(help="The semantic IDs.")],
    ensemble: Annotated[Path, typer.Option(help="The fused rankings.")],
    images: Annotated[Path, typer.Option(help="The pictures.")],
    html: Annotated[Path, typer.Option(help="To write: the page.")],
    markdown: Annotated[Path, typer.Option(help="To write: the tables.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    measured, drawn, filtered = read_json(evaluate), read_json(intervals), read_json(filter_)
    fused = read_table(ensemble, RANKINGS)
    users = draw_users(fused, examples=params.report.examples, generator=np.random.default_rng(params.seed))
    examples = examples_of(
        users,
        interactions=read_table(interactions, INTERACTIONS),
        ensemble=fused,
        items=read_table(items, ITEMS),
    )
    content = Content(
        about=About(
            system=params.system,
            dataset=params.dataset.name,
            encoder=params.encoder,
            scale=params.scale,
            modalities=params.modalities,
            seed=params.seed,
        ),
        sample=sample_of(drawn),
        rankings=rankings_of(measured, drawn),
        data=data_of(filtered),
        dropped=dropped_of(filtered),
        lacking=lacking_of(filtered),
        mismatches=mismatches_of(filtered),
        codes=codes_of(read_json(collisions), read_table(ids, IDS)),
        slices=slices_of(read_json(slices)),
        examples=examples,
        pictures=data_urls(_pictures(images, shown_keys(examples))),
    )
    for path, page in ((html, html_page(content)), (markdown, markdown_page(content))):
        with whole_file(path) as partial:
            partial.write_text(page, encoding="utf-8")


def _pictures(images: Path, keys: list[str]) -> dict[str, bytes]:
    """Return the pictures of keys that there are; the others stay on disk.

    Raises TableError where images is no table of pictures.
    """
    try:
        wanted = pl.scan_parquet(images).filter(pl.col("key").is_in(keys), pl.col("picture").is_not_null())
        return dict(wanted.select("key", "picture").collect(engine="streaming").iter_rows())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise TableError(f"{images}: expected a table of pictures with key and picture: {error}") from error


if __name__ == "__main__":
    run(main)
