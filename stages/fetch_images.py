"""Fetch the picture of each item that a first k-core keeps, and make them alike: small JPEGs in one table.

Where neither `modalities` nor `filter.required` names the image, nothing is fetched and the table is empty.
"""

from pathlib import Path
from typing import Annotated

import typer

from tessera.artifacts import read_table, whole_file, write_json
from tessera.items.fetching import picture_files
from tessera.items.filtering import dense_interactions
from tessera.items.locks import until_nobody_waits
from tessera.items.picture_parts import fetch_parts, fingerprint, merge, none_found, summed_up, wanted_pictures
from tessera.items.pictures import PASSING, Limits
from tessera.items.web import Patience
from tessera.params import PARAMS_FILE, load_params
from tessera.places import at_home, warn_unless_watched
from tessera.runtime import log, progress, run
from tessera.schemas import RAW_ITEMS, REVIEWS


def main(
    reviews: Annotated[Path, typer.Option(help="Every review that could be read.")],
    items: Annotated[Path, typer.Option(help="What the source says of each item, and where its pictures are.")],
    images: Annotated[Path, typer.Option(help="Where the pictures go, and why there is none where there is none.")],
    metrics: Annotated[Path, typer.Option(help="Where the counts go: items by status, and bytes.")],
    downloads: Annotated[Path, typer.Option(help="Where a run cut short leaves what it has.")] = Path("downloads"),
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    dense = dense_interactions(read_table(reviews, REVIEWS), min_rating=params.filter.min_rating, k=params.filter.k)
    wanted = wanted_pictures(dense.interactions["item_key"], items=read_table(items, RAW_ITEMS))
    if "image" not in {*params.modalities, *params.filter.required}:
        wanted = wanted.clear()
    files, root = _local_pictures(params.dataset.pictures, form=params.dataset.format, watch=params.dataset.watch)
    limits = Limits(**params.images.model_dump(include=set(Limits._fields)))

    parts = at_home(downloads) / f"pictures-{fingerprint(wanted, files=files, limits=limits)}"
    with until_nobody_waits(parts) as served:
        paths = fetch_parts(
            wanted,
            parts=parts,
            files=files,
            root=root,
            limits=limits,
            patience=Patience(timeout=params.images.timeout, retries=params.images.retries),
            workers=params.images.workers,
            progress=progress,
        )
        counts = summed_up(paths)
        with whole_file(images) as partial:
            merge(paths, into=partial)
        write_json(metrics, counts)
        if counts["items"] and not counts["status"]["ok"]:
            log.warning("%s", none_found(paths))
        passing = sum(counts["status"][status] for status in PASSING)
        if passing:
            log.warning(
                "%d pictures failed for what may pass: `dvc repro -f -s fetch_images` tries them again", passing
            )
        else:
            served()


def _local_pictures(folder: str | None, *, form: str, watch: str) -> tuple[dict[str, Path], Path | None]:
    """Return the picture files by key, and where the paths that items name start."""
    if folder is None:
        return {}, None
    warn_unless_watched(folder, watch=watch, key="dataset.watch")
    home = at_home(Path(folder))
    return ({}, home) if form == "folder" else (picture_files(home), None)


if __name__ == "__main__":
    run(main)
