"""A finished run of a small shop: the files that the report and the command line read."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from PIL import Image

from stages.evaluate import main as evaluate
from tessera.schemas import IDS, IMAGES, INTERACTIONS, ITEMS, RANKINGS

USERS, ITEMS_IN_ALL, LENGTH = 30, 40, 12
HOSTILE = "<script>alert('x')</script> \"A\" & B | {{ 7 * 7 }} \x1b[31m"
FILTERED = {
    "users": USERS,
    "items": ITEMS_IN_ALL,
    "interactions": 210,
    "sparsity": 0.825,
    "average_length": 7.0,
    "tie_rate": 0.25,
    "splits": {"train": 150, "valid": 30, "test": 30},
    "dropped": {
        "repeats": {"users": 0, "items": 0, "interactions": 17},
        "k_core": {"users": 4, "items": 0, "interactions": 1234},
        "without_image": {"users": 0, "items": 0, "interactions": 0},
    },
    "lacking": {"metadata": 0, "image": 3},
    "expected": {"users": USERS, "items": 41},
}
COLLISIONS = {
    "text": {"collision_rate_before": 2.38, "collision_rate_after": 0.0},
    "image": {"collision_rate_before": 3.23, "collision_rate_after": 0.5},
}


class Run(NamedTuple):
    """The files of a run, named as the options of write_report are."""

    evaluate: Path
    intervals: Path
    slices: Path
    filter: Path
    collisions: Path
    items: Path
    interactions: Path
    ids: Path
    ensemble: Path
    images: Path


def finish_run(
    folder: Path, params_file: Path, *, modalities: tuple[str, ...] = ("text", "image"), seed: int = 0
) -> Run:
    """Write the files of a run into folder."""
    generator = np.random.default_rng(seed)
    run = Run(
        **{name: folder / f"{name}.json" for name in ("evaluate", "intervals", "slices", "filter", "collisions")},
        **{name: folder / f"{name}.parquet" for name in ("items", "interactions", "ids", "ensemble", "images")},
    )
    shop_items().write_parquet(run.items)
    shop_interactions(generator).write_parquet(run.interactions)
    shop_images(generator).write_parquet(run.images)
    semantic_ids(modalities).write_parquet(run.ids)
    rankings(modalities, generator).write_parquet(folder / "rankings.parquet")
    run.filter.write_text(json.dumps(FILTERED))
    run.collisions.write_text(json.dumps({modality: COLLISIONS[modality] for modality in modalities}))
    evaluate(
        rankings=[folder / "rankings.parquet"],
        interactions=run.interactions,
        per_user=folder / "per_user.parquet",
        ensemble=run.ensemble,
        metrics=run.evaluate,
        slices=run.slices,
        curve=folder / "curve.json",
        intervals=run.intervals,
        params_file=params_file,
    )
    return run


def key_of(item: int) -> str:
    return f"B{item:04}"


def shop_items() -> pl.DataFrame:
    rows = [
        (item, key_of(item), f"Thing {item}", "", ["Things", "Fine"], item % 10 != 0, 5) for item in range(ITEMS_IN_ALL)
    ]
    table = pl.DataFrame(rows, schema=ITEMS, orient="row")
    titles = {1: HOSTILE, 2: ""}
    return table.with_columns(title=pl.col("item").replace_strict(titles, default=pl.col("title")))


def shop_interactions(generator: np.random.Generator) -> pl.DataFrame:
    rows = []
    for user in range(USERS):
        items = generator.permutation(ITEMS_IN_ALL)[: generator.integers(4, 16)]
        splits = ["train"] * (len(items) - 2) + ["valid", "test"]
        rows += [
            (user, item, place, place, split) for place, (item, split) in enumerate(zip(items, splits, strict=True))
        ]
    return pl.DataFrame(rows, schema=INTERACTIONS, orient="row")


def shop_images(generator: np.random.Generator) -> pl.DataFrame:
    rows = []
    for item in range(ITEMS_IN_ALL):
        picture = None if item % 10 == 0 else encoded(Image.new("RGB", (60, 30), tuple(generator.integers(0, 255, 3))))
        rows.append((key_of(item), picture, 60, 30, "ok" if picture else "missing", ""))
    return pl.DataFrame(rows, schema=IMAGES, orient="row")


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def semantic_ids(modalities: tuple[str, ...]) -> pl.DataFrame:
    """Item i has the codes [i // 10, i % 10, 7]; every ninth item was moved there from a last code of 8."""
    rows = []
    for modality in modalities:
        for item in range(ITEMS_IN_ALL):
            codes = [item // 10, item % 10, 7]
            moved = item % 9 == 0
            rows.append((item, modality, codes, [*codes[:2], 8] if moved else codes, moved))
    return pl.DataFrame(rows, schema=IDS, orient="row")


def rankings(modalities: tuple[str, ...], generator: np.random.Generator) -> pl.DataFrame:
    rows = []
    for split in ("valid", "test"):
        for modality in modalities:
            for user in range(USERS):
                items = generator.permutation(ITEMS_IN_ALL)[:LENGTH]
                scores = -np.sort(generator.gamma(2, size=LENGTH))
                rows += [(split, user, modality, place + 1, items[place], scores[place]) for place in range(LENGTH)]
    return pl.DataFrame(rows, schema=RANKINGS, orient="row")
