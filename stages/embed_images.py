"""Embed each item's picture: by descriptors, an `open_clip` model, a trained backbone, or vectors that are there."""

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from tessera.artifacts import read_table, write_json, write_table
from tessera.items.image_encoders import clip, descriptors, distilled
from tessera.items.impairing import Impairment, impaired, remaining
from tessera.items.vectors import Vectors, fill_absent, precomputed, vector_metrics, vector_table
from tessera.params import PARAMS_FILE, Image, load_params
from tessera.places import at_home, found_at_home
from tessera.runtime import accelerator_on, is_main_process, progress, run
from tessera.schemas import ITEMS, VECTORS

#: How open_clip spells a folder with a model and its checkpoint.
LOCAL = "local-dir:"


def main(
    items: Annotated[Path, typer.Option(help="The items that remain.")],
    images: Annotated[Path, typer.Option(help="Their pictures.")],
    backbone: Annotated[Path, typer.Option(help="The encoder that was trained on them; read if it is to embed them.")],
    vectors: Annotated[Path, typer.Option(help="Where the vectors go.")],
    metrics: Annotated[Path, typer.Option(help="Where the counts go.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    table, counts = pl.DataFrame(schema=VECTORS), dict[str, float](items=0)
    if "image" in params.modalities:
        catalogue = read_table(items, ITEMS)
        keys, impairment = catalogue["key"], Impairment(**params.image.model_dump(include=set(Impairment._fields)))
        kept = remaining(keys, missing=params.image.missing, seed=params.image.seed, modality="image")
        found = embedded(images, keys.filter(kept), params.image, backbone=backbone, device=params.device)
        made = impaired(found, kept, impairment, keys=keys, modality="image")
        filled = fill_absent(made.vectors, modality="image")
        lost = int((catalogue["has_picture"].to_numpy()[kept] & ~found.present).sum())
        table = vector_table(catalogue["item"], filled)
        counts = vector_metrics(filled) | {"pictures_lost": lost} | made.counts
    if is_main_process():
        write_table(vectors, table, VECTORS)
        write_json(metrics, counts)


def embedded(images: Path, keys: pl.Series, image: Image, *, backbone: Path, device: str) -> Vectors:
    """Return the vectors of the items with these keys."""
    if image.encoder == "precomputed":
        return precomputed(at_home(Path(image.path)), keys)
    if image.encoder == "descriptors":
        return descriptors(
            images,
            keys,
            dimensions=image.dimensions,
            batch_size=image.batch_size,
            progress=progress,
        )
    if image.encoder == "rq_dino":
        return distilled(
            images,
            keys,
            backbone=backbone,
            batch_size=image.batch_size,
            accelerator=accelerator_on(device, precision="fp32"),
            progress=progress,
        )
    return clip(
        images,
        keys,
        model=_found(image.model, watch=image.watch),
        checkpoint=_found(image.checkpoint, watch=image.watch),
        batch_size=image.batch_size,
        accelerator=accelerator_on(device, precision="auto"),
        progress=progress,
    )


def _found(name: str | None, *, watch: str) -> str | None:
    """Return name with the path in it, if it is one or spells local-dir:PATH, as that at home."""
    if name is None:
        return None
    path = name.removeprefix(LOCAL)
    return name.removesuffix(path) + found_at_home(path, watch=watch, key="image.watch")


if __name__ == "__main__":
    run(main)
