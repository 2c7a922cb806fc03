"""The pictures of many items, in parts that outlive a run that is cut short: one row an item, come what may."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import polars as pl

from tessera.items.fetching import UNANSWERED, UNREACHED, Fetcher
from tessera.items.pictures import Limits, Status
from tessera.items.progress import Progress, silently
from tessera.items.web import Patience
from tessera.parquet import parquet_rows, parquet_table

STATUSES: tuple[Status, ...] = get_args(Status)

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "key": pl.String,
    "picture": pl.Binary,
    "width": pl.UInt32,
    "height": pl.UInt32,
    "status": pl.String,
    "detail": pl.String,
}

#: Items fetched, and kept in memory, together; a part and a row group each.
BLOCK = 512


def wanted_pictures(keys: pl.Series, *, items: pl.DataFrame) -> pl.DataFrame:
    """Return key and pictures, the list of addresses that items (key, pictures) has for it, of the keys in order."""
    known = items.select("key", "pictures").unique("key", keep="first")
    wanted = keys.unique().sort().to_frame("key").join(known, on="key", how="left", maintain_order="left")
    return wanted.with_columns(pl.col("pictures").fill_null([]))


def fingerprint(wanted: pl.DataFrame, *, files: Mapping[str, Path], limits: Limits) -> str:
    """Return a digest of what decides which pictures are fetched, and what becomes of them."""
    digest = hashlib.sha256(json.dumps([limits, sorted(path.name for path in files.values())]).encode())
    for row in wanted.iter_rows():
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def fetch_parts(
    wanted: pl.DataFrame,
    *,
    parts: Path,
    files: Mapping[str, Path],
    root: Path | None,
    limits: Limits,
    patience: Patience,
    workers: int,
    progress: Progress = silently,
) -> list[Path]:
    """Return the paths of Parquet files under parts that together have one row of SCHEMA an item of wanted, in order.

    wanted has key and pictures. files gives the picture file of a key, which goes before what wanted names; paths
    that wanted names start from root, and without a root none is opened. A part is written when it is done; pictures
    that came from the web and are in one already, from a run that was cut short, are not fetched again.

    Raises SourceError where not a single one of the servers asked has answered: the network is the matter then, not
    the pictures. Where an earlier run had none from the web either, some dead links beside more pictures that are
    there are just dead links.
    """
    parts.mkdir(parents=True, exist_ok=True)
    blocks = list(wanted.iter_slices(BLOCK)) or [wanted]
    paths = [parts / f"{number:06d}.parquet" for number in range(len(blocks))]
    with (
        ThreadPoolExecutor(workers) as pool,
        Fetcher(files=files, root=root, limits=limits, patience=patience, workers=workers) as fetcher,
    ):
        found = unreached = 0
        for path, block in progress(zip(paths, blocks, strict=True), title=f"{BLOCK} pictures each", total=len(blocks)):
            kept = _from_web(path)
            if kept.height:
                fetcher.known = kept["detail"][0]
            table = _block(block, kept=kept, fetcher=fetcher, pool=pool)
            found += table.filter(status="ok").height
            unreached += table.filter(pl.col("status").is_in(UNREACHED)).height
            if fetcher.known or unreached > found:
                fetcher.check_network(few=UNANSWERED)
            partial = path.with_suffix(".partial")
            table.write_parquet(partial)
            partial.replace(path)
        if not found:
            fetcher.check_network(few=1)
    return paths


def merge(parts: list[Path], *, into: Path) -> None:
    """Write the rows of parts, in their order and a row group a part, to the Parquet file into."""
    parquet_rows(parts).sink_parquet(into, row_group_size=BLOCK)


def summed_up(parts: list[Path]) -> dict[str, Any]:
    """Return how many items the parts have, of each status and in all; the share with a picture; and the bytes."""
    rows = parquet_rows(parts).select("status", size=pl.col("picture").bin.size()).collect()
    counts = Counter(rows["status"])
    return {
        "items": rows.height,
        "share_with_picture": counts["ok"] / max(rows.height, 1),
        "bytes": int(rows["size"].sum()),
        "status": {status: counts[status] for status in STATUSES},
    }


def none_found(parts: list[Path]) -> str:
    """Return a sentence on parts without a picture: how many items, why mostly, and where one was looked for.

    "no picture of 24 items could be had; mostly not_found: B1: images/B1.jpg: no such file"
    """
    rows = parquet_rows(parts).select("key", "status", "detail").collect()
    often = rows["status"].value_counts(sort=True)["status"][0]
    key, _, detail = rows.filter(status=often).row(0)
    return f"no picture of {rows.height} items could be had; mostly {often}: {key}: {detail}"


def _from_web(path: Path) -> pl.DataFrame:
    """Return the rows of the part at path, if it is there, whose pictures came from the web."""
    if not path.is_file():
        return pl.DataFrame(schema=SCHEMA)
    return parquet_table(path).filter((pl.col("status") == "ok") & pl.col("detail").str.contains("^(?i:https?)://"))


def _block(block: pl.DataFrame, *, kept: pl.DataFrame, fetcher: Fetcher, pool: ThreadPoolExecutor) -> pl.DataFrame:
    missing = block.join(kept, on="key", how="anti", maintain_order="left")
    keys, pictures = missing["key"].to_list(), missing["pictures"].to_list()
    rows = [
        (key, *(tried.picture or (None, None, None)), tried.status, tried.detail)
        for key, tried in zip(keys, pool.map(fetcher.fetch, keys, pictures), strict=True)
    ]
    fetched = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    return pl.concat([kept, fetched]).sort("key")
