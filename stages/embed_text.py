"""Embed each item's title and description: by TF-IDF, any `transformers` text model, or vectors that exist already."""

from pathlib import Path
from typing import Annotated

import typer

from tessera.artifacts import read_table
from tessera.encoders.modality import write_embedded, write_nothing
from tessera.encoders.text import embed_texts
from tessera.params import PARAMS_FILE, load_params
from tessera.runtime import run
from tessera.schemas import ITEMS


def main(
    items: Annotated[Path, typer.Option(help="The items that remain, their text cleaned.")],
    vectors: Annotated[Path, typer.Option(help="Where the vectors go.")],
    encoder: Annotated[Path, typer.Option(help="Where what the encoder has learned goes, for other items: a folder.")],
    metrics: Annotated[Path, typer.Option(help="Where the counts go.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    if "text" not in params.modalities:
        write_nothing(vectors=vectors, encoder=encoder, metrics=metrics)
        return
    write_embedded(
        read_table(items, ITEMS),
        params.text,
        lambda kept: embed_texts(kept, params.text, device=params.device, scratch=vectors.parent),
        modality="text",
        vectors=vectors,
        encoder=encoder,
        metrics=metrics,
    )


if __name__ == "__main__":
    run(main)
