"""Embed each item's picture: by descriptors, a model of `open_clip` or `timm`, a trained backbone, or ready vectors."""

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from tessera.artifacts import read_table
from tessera.encoders.embedded import Embedded
from tessera.encoders.image import embed_pictures
from tessera.encoders.modality import write_embedded, write_nothing
from tessera.params import PARAMS_FILE, load_params
from tessera.runtime import run
from tessera.schemas import ITEMS


def main(
    items: Annotated[Path, typer.Option(help="The items that remain.")],
    images: Annotated[Path, typer.Option(help="Their pictures.")],
    backbone: Annotated[Path, typer.Option(help="The encoder that was trained on them; read if it is to embed them.")],
    vectors: Annotated[Path, typer.Option(help="Where the vectors go.")],
    encoder: Annotated[Path, typer.Option(help="Where what the encoder has learned goes, for other items: a folder.")],
    metrics: Annotated[Path, typer.Option(help="Where the counts go.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    if "image" not in params.modalities:
        write_nothing(vectors=vectors, encoder=encoder, metrics=metrics)
        return

    def embed(kept: pl.DataFrame) -> Embedded:
        found = embed_pictures(
            images, kept["key"], params.image, backbone=backbone, device=params.device, scratch=vectors.parent
        )
        lost = int((kept["has_picture"].to_numpy() & ~found.vectors.present).sum())
        return found._replace(counts={"pictures_lost": lost})

    write_embedded(
        read_table(items, ITEMS),
        params.image,
        embed,
        modality="image",
        vectors=vectors,
        encoder=encoder,
        metrics=metrics,
    )


if __name__ == "__main__":
    run(main)
