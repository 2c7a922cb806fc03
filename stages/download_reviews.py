"""Read the reviews of a data set and what it says of its items, from files, from the web, or from the demo shop."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from tessera.artifacts import write_json, write_table
from tessera.items.amazon import read_amazon
from tessera.items.demo import write_demo
from tessera.items.download import obtain
from tessera.items.folder import read_folder
from tessera.items.raw_items import Content
from tessera.params import PARAMS_FILE, AmazonDataset, DemoDataset, FolderDataset, load_params
from tessera.places import at_home, warn_unless_watched
from tessera.runtime import progress, run
from tessera.schemas import RAW_ITEMS, REVIEWS


def main(
    reviews: Annotated[Path, typer.Option(help="Where every review that could be read goes.")],
    items: Annotated[Path, typer.Option(help="Where what the source says of each reviewed item goes.")],
    metrics: Annotated[Path, typer.Option(help="Where the counts go: lines, and what became of them.")],
    downloads: Annotated[Path, typer.Option(help="The cache of files from the web.")] = Path("downloads"),
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    match dataset := params.dataset:
        case DemoDataset():
            content = _made(dataset)
        case AmazonDataset():
            content = _read(dataset, downloads=at_home(downloads))
        case FolderDataset():
            warn_unless_watched(dataset.path, watch=dataset.watch, key="dataset.watch")
            content = read_folder(at_home(Path(dataset.path)), max_malformed=dataset.max_malformed)

    write_table(reviews, content.reviews, REVIEWS)
    write_table(items, content.items, RAW_ITEMS)
    write_json(metrics, content.counts)


def _made(dataset: DemoDataset) -> Content:
    with TemporaryDirectory() as folder:
        write_demo(Path(folder), users=dataset.users, items=dataset.items, seed=dataset.seed)
        reviews, metadata = Path(folder, "reviews.json.gz"), Path(folder, "meta.json.gz")
        return read_amazon(reviews, metadata, form="amazon2018", max_malformed=dataset.max_malformed)


def _read(dataset: AmazonDataset, *, downloads: Path) -> Content:
    reviews = _file(dataset.reviews, "reviews", dataset=dataset, downloads=downloads)
    metadata = _file(dataset.metadata, "metadata", dataset=dataset, downloads=downloads) if dataset.metadata else None
    return read_amazon(reviews, metadata, form=dataset.format, max_malformed=dataset.max_malformed)


def _file(source: str, name: Literal["reviews", "metadata"], *, dataset: AmazonDataset, downloads: Path) -> Path:
    if "://" not in source:
        warn_unless_watched(source, watch=dataset.watch, key="dataset.watch")
        source = str(at_home(Path(source)))
    return obtain(source, downloads=downloads, checksum=dataset.checksums.get(name), progress=progress)


if __name__ == "__main__":
    run(main)
