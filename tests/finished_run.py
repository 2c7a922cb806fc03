"""A finished run of a small shop: the files that the report and the command line read."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from PIL import Image

from stages.evaluate import main as evaluate
from tessera.schemas import IDS, IMAGES, INTERACTIONS, ITEMS, RANKINGS, USERS, VECTORS

USERS_IN_ALL, ITEMS_IN_ALL, LENGTH = 30, 40, 12
HOSTILE = "<script>alert('x')</script> \"A\" & B | {{ 7 * 7 }} \x1b[31m"
FILTERED = {
    "users": USERS_IN_ALL,
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
    "expected": {"users": USERS_IN_ALL, "items": 41},
}
COLLISIONS = {
    "text": {"collision_rate_before": 2.38, "collision_rate_after": 0.0},
    "image": {"collision_rate_before": 3.23, "collision_rate_after": 0.5},
}


DOWNLOADED = {
    "reviews": {"kept": 1500, "malformed": {"no_record": 3, "bad_time": 0}},
    "items": {"kept": ITEMS_IN_ALL, "repeated": 1, "not_reviewed": 0, "malformed": {"no_record": 0}},
}
FETCHED = {"status": {"ok": 36, "not_found": 4, "timeout": 0}}
RECORD = {
    "seconds": 92.0,
    "cpu_seconds": 61.5,
    "peak_bytes": 300 * 2**20,
    "gpu_peak_bytes": None,
    "processes": 1,
    "finished": "2026-01-02T03:04:05+00:00",
    "machine": {"cpu": "A Processor", "cores": 2, "gpu": None, "system": "Linux"},
    "versions": {"python": "3.11.7", "polars": "2.1.0"},
}


class Run(NamedTuple):
    """The files of a run, named as the options of write_report are; vectors and records are NAME=PATH, several."""

    evaluate: Path
    intervals: Path
    slices: Path
    curve: Path
    download: Path
    fetch: Path
    filter: Path
    collisions: Path
    t5_history: Path
    items: Path
    interactions: Path
    users: Path
    ids: Path
    ensemble: Path
    per_user: Path
    images: Path
    distill_history: Path
    quantizer_history: Path
    sequence_history: Path
    rankings: list[Path]
    vectors: list[str]
    records: list[str]

    @property
    def options(self) -> dict[str, object]:
        """The arguments of write_report."""
        return {f"{name}_" if name == "filter" else name: value for name, value in self._asdict().items()}


def finish_run(
    folder: Path, params_file: Path, *, modalities: tuple[str, ...] = ("text", "image"), seed: int = 0
) -> Run:
    """Write the files of a run into folder."""
    generator = np.random.default_rng(seed)
    names = list(Run._fields)
    split = names.index("items"), names.index("distill_history"), names.index("rankings")
    run = Run(
        **{name: folder / f"{name}.json" for name in names[: split[0]]},
        **{name: folder / f"{name}.parquet" for name in names[split[0] : split[1]]},
        **{name: folder / f"{name}.tsv" for name in names[split[1] : split[2]]},
        rankings=[folder / "rankings.parquet"],
        vectors=[f"{name}={folder / name}.parquet" for name in ("text", "image")],
        records=[f"train_t5={folder / 'record.json'}"],
    )
    shop_items().write_parquet(run.items)
    shop_interactions(generator).write_parquet(run.interactions)
    shop_users().write_parquet(run.users)
    shop_images(generator).write_parquet(run.images)
    semantic_ids(modalities).write_parquet(run.ids)
    rankings(modalities, generator).write_parquet(folder / "rankings.parquet")
    for name in ("text", "image"):
        vectors(name in modalities, generator).write_parquet(folder / f"{name}.parquet")
    run.quantizer_history.write_text("epoch\ttotal\trq\trecon\tcon\talign\n1\t9.5\t4\t5\t1\t2\n2\t7.5\t3\t4\t1\t2\n")
    run.distill_history.write_text("epoch\n")
    run.sequence_history.write_text("epoch\n")
    written = {
        run.filter: FILTERED,
        run.download: DOWNLOADED,
        run.fetch: FETCHED,
        run.t5_history: [{"epoch": 1, "train_loss": 2.0, "valid_loss": 2.5}, {"epoch": 2, "train_loss": 1.0}],
        folder / "record.json": RECORD,
    }
    for path, document in written.items():
        path.write_text(json.dumps(document))
    run.collisions.write_text(json.dumps({modality: COLLISIONS[modality] for modality in modalities}))
    evaluate(
        rankings=[folder / "rankings.parquet"],
        interactions=run.interactions,
        per_user=run.per_user,
        ensemble=run.ensemble,
        weights=folder / "weights.parquet",
        metrics=run.evaluate,
        slices=run.slices,
        curve=run.curve,
        intervals=run.intervals,
        params_file=params_file,
    )
    return run


def key_of(item: int) -> str:
    return f"B{item:04}"


def user_of(user: int) -> str:
    return f"A{user:04}"


def shop_users() -> pl.DataFrame:
    return pl.DataFrame([(user, user_of(user), 5) for user in range(USERS_IN_ALL)], schema=USERS, orient="row")


def shop_items() -> pl.DataFrame:
    rows = [
        (item, key_of(item), f"Thing {item}", "", ["Things", "Coarse" if item % 2 else "Fine"], item % 10 != 0, 5)
        for item in range(ITEMS_IN_ALL)
    ]
    table = pl.DataFrame(rows, schema=ITEMS, orient="row")
    titles = {1: HOSTILE, 2: ""}
    return table.with_columns(title=pl.col("item").replace_strict(titles, default=pl.col("title")))


def shop_interactions(generator: np.random.Generator) -> pl.DataFrame:
    rows = []
    for user in range(USERS_IN_ALL):
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


def vectors(there: bool, generator: np.random.Generator) -> pl.DataFrame:
    """Return three numbers an item, or nothing; the last item lacks the modality."""
    count = ITEMS_IN_ALL if there else 0
    schema = VECTORS | {"vector": pl.Array(pl.Float32, 3)}
    rows = [(item, generator.normal(size=3), item < count - 1) for item in range(count)]
    return pl.DataFrame(rows, schema=schema, orient="row")


def rankings(modalities: tuple[str, ...], generator: np.random.Generator) -> pl.DataFrame:
    rows = []
    for split in ("valid", "test"):
        for modality in modalities:
            for user in range(USERS_IN_ALL):
                items = generator.permutation(ITEMS_IN_ALL)[:LENGTH]
                scores = -np.sort(generator.gamma(2, size=LENGTH))
                rows += [(split, user, modality, place + 1, items[place], scores[place]) for place in range(LENGTH)]
    return pl.DataFrame(rows, schema=RANKINGS, orient="row")
