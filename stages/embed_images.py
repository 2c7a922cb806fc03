"""Embed each item's picture: by descriptors, an `open_clip` model, a trained backbone, or vectors that are there."""

from pathlib import Path
from typing import Annotated

import typer

from tessera.artifacts import read_table, whole_folder, write_json
from tessera.encoders.embedded import write_nothing, write_vectors
from tessera.encoders.image import embed_pictures
from tessera.items.fitted import save_fitted
from tessera.items.impairing import Impairment, impaired, remaining
from tessera.items.vectors import fill_absent, vector_metrics
from tessera.params import PARAMS_FILE, load_params
from tessera.runtime import is_main_process, run
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
        if is_main_process():
            write_nothing(vectors, encoder, metrics)
        return
    catalogue = read_table(items, ITEMS)
    keys, impairment = catalogue["key"], Impairment(**params.image.model_dump(include=set(Impairment._fields)))
    kept = remaining(keys, missing=params.image.missing, seed=params.image.seed, modality="image")
    found = embed_pictures(
        images, keys.filter(kept), params.image, backbone=backbone, device=params.device, scratch=vectors.parent
    )
    if is_main_process():
        lost = int((catalogue["has_picture"].to_numpy()[kept] & ~found.vectors.present).sum())
        made = impaired(found.vectors, kept, impairment, keys=keys, modality="image")
        filled = fill_absent(made.vectors, modality="image")
        write_vectors(vectors, catalogue["item"], filled)
        with whole_folder(encoder) as folder:
            save_fitted(found.fitted, folder)
        write_json(metrics, vector_metrics(filled) | {"pictures_lost": lost} | made.counts)


if __name__ == "__main__":
    run(main)
