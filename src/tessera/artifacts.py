"""Read and write what stages hand to each other; a file appears complete and as declared, or not at all."""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from tessera.errors import ParamsError, TableError
from tessera.parquet import parquet_rows, parquet_schema, parquet_table
from tessera.schemas import Schema

Content = TypeVar("Content")

#: Numbers in the vectors of a row group: 64 MiB of floats.
GROUP = 2**24

#: The level of zstd: tables of short texts and numbers become no smaller with a higher one.
COMPRESSION = 1

log = logging.getLogger("tessera")


def read_table(path: Path, schema: Schema, *, columns: list[str] | None = None) -> pl.DataFrame:
    """Return the Parquet table at path, or some columns of it; raise TableError if it is missing or not of schema."""
    _require(_opened(path, parquet_schema), schema, path)
    table = _opened(path, lambda file: parquet_table(file, columns=columns or list(schema)))
    log.debug("read %s: %d rows of %s", path, table.height, ", ".join(table.columns))
    return table


def scan_table(path: Path, schema: Schema) -> pl.LazyFrame:
    """Return the Parquet table at path, of which only what is asked for is read: for tables too large to hold.

    Raises TableError if it is missing or not of schema.
    """
    _require(_opened(path, parquet_schema), schema, path)
    return parquet_rows(path).select(list(schema))


def read_rows(path: Path, schema: Schema, where: pl.Expr) -> pl.DataFrame:
    """Return the rows of the Parquet table at path that are as `where` says; the others stay on disk.

    Raises TableError if it is missing or not of schema.
    """
    return _opened(path, lambda file: scan_table(file, schema).filter(where).collect(engine="streaming"))


def read_parts(path: Path, schema: Schema) -> Iterator[pl.DataFrame]:
    """Yield the row groups of the Parquet table at path; raise TableError if it is missing or not of schema."""
    import pyarrow.parquet as pq  # here, since most stages need nothing of it

    _require(_opened(path, parquet_schema), schema, path)
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield pl.DataFrame(pl.from_arrow(file.read_row_group(number, columns=list(schema))))


def write_table(path: Path, table: pl.DataFrame, schema: Schema) -> None:
    """Write table to path as Parquet; raise TableError if it is not of schema."""
    with whole_file(path) as partial:
        _checked(table, schema, path).write_parquet(
            partial, compression_level=COMPRESSION, row_group_size=_rows_of_a_group(table.schema)
        )


@contextmanager
def table_writer(path: Path, schema: Schema) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Give a function that appends tables of schema to path; path appears when the block ends well.

    For tables that are made piece by piece and need never be in memory as a whole. Each piece is a row group, a large
    one several.
    """
    import pyarrow.parquet as pq  # here, since most stages need nothing of it

    with whole_file(path) as partial, ExitStack() as stack:
        writers: list[pq.ParquetWriter] = []

        def write(table: pl.DataFrame) -> None:
            rows = _checked(table, schema, path).to_arrow()
            if not writers:  # the first table says how wide vectors are
                options = {"compression": "zstd", "compression_level": COMPRESSION}
                writers.append(stack.enter_context(pq.ParquetWriter(partial, rows.schema, **options)))
            writers[0].write_table(rows)

        yield write
        if not writers:
            write(pl.DataFrame(schema=schema))


def read_json(path: Path) -> Any:
    """Return the JSON document at path; raise TableError if it is missing or not JSON."""
    log.debug("read %s", path)
    return _opened(path, lambda file: json.loads(file.read_text()))


def write_json(path: Path, document: Any) -> None:
    """Write document to path as indented JSON; raise TableError on NaN or an infinity, which JSON has not."""
    _refuse_non_finite(document, path.name)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def read_tsv(path: Path) -> pl.DataFrame:
    """Return the tab-separated values at path; raise TableError if it is missing or holds none."""
    return _opened(path, lambda file: pl.read_csv(file, separator="\t", infer_schema_length=None))


def write_tsv(path: Path, table: pl.DataFrame) -> None:
    """Write table to path as tab-separated values: a curve, as DVC draws them."""
    with whole_file(path) as partial:
        table.write_csv(partial, separator="\t")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; it becomes path when the block ends well, and vanishes when it does not."""
    require_writable(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
        log.debug("wrote %s: %d bytes", path, path.stat().st_size)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a new folder to fill; it replaces path when the block ends well, and vanishes when it does not.

    Where path is a link, it replaces what that leads to.
    """
    path = path.resolve() if path.is_symlink() else path
    require_writable(path.parent)
    partial, before = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("partial", "before"))
    for left in (partial, before):  # by a process of the same number that was killed
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            path.replace(before)
        try:
            partial.replace(path)
        except BaseException:
            if before.exists():
                before.replace(path)
            raise
        log.debug("wrote %s: %s", path, ", ".join(sorted(file.name for file in path.iterdir())))
    finally:
        for left in (partial, before):
            shutil.rmtree(left, ignore_errors=True)
    if before.exists():
        log.warning("%s: cannot be removed as a whole; it is what was at %s before", before, path)


def require_writable(folder: Path) -> None:
    """Make folder, if it is not there; raise TableError where that cannot be, or nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TableError(f"{folder}: expected a folder to write to: {error}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise TableError(f"{folder}: expected a folder to write to, found one where nothing may be written")


def named_paths(options: list[str]) -> dict[str, Path]:
    """Return the mapping that options of the form NAME=PATH spell, as in `--vectors text=data/text.parquet`.

    Raises ParamsError for an option of another form or a name given twice.
    """
    paths: dict[str, Path] = {}
    for option in options:
        name, separator, path = option.partition("=")
        if not (name and separator and path):
            raise ParamsError(f"{option!r}: expected NAME=PATH")
        if name in paths:
            raise ParamsError(f"{option!r}: {name} was given twice")
        paths[name] = Path(path)
    return paths


def _rows_of_a_group(schema: Mapping[str, Any]) -> int | None:
    """Return how many rows with vectors a reader of one row group at a time can be asked to hold; else the default."""
    width = sum(dtype.size for dtype in schema.values() if isinstance(dtype, pl.Array))
    return max(1, GROUP // width) if width else None


def _opened(path: Path, read: Callable[[Path], Content]) -> Content:
    if not path.is_file():
        raise TableError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}")
    try:
        return read(path)
    except (pl.exceptions.PolarsError, ValueError, OSError) as error:
        raise TableError(f"{path}: cannot be read: {error}") from error


def _checked(table: pl.DataFrame, schema: Schema, path: Path) -> pl.DataFrame:
    _require(table.schema, schema, path)
    return table.select(list(schema))


def _require(found: Mapping[str, Any], schema: Schema, path: Path) -> None:
    if found.keys() != schema.keys() or any(not _fits(found[name], schema[name]) for name in schema):
        raise TableError(f"{path}: expected columns {_spelled(schema)}, found {_spelled(found)}")


def _fits(found: Any, declared: Any) -> bool:
    if isinstance(declared, pl.Array):
        return isinstance(found, pl.Array) and found.inner == declared.inner
    return bool(found == declared)


def _spelled(schema: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {dtype}" for name, dtype in schema.items()) + "}"


def _refuse_non_finite(document: Any, where: str) -> None:
    if isinstance(document, Mapping):
        for key, value in document.items():
            _refuse_non_finite(value, f"{where}: {key}")
    elif isinstance(document, (list, tuple)):
        for position, value in enumerate(document):
            _refuse_non_finite(value, f"{where}[{position}]")
    elif isinstance(document, float) and not math.isfinite(document):
        raise TableError(f"{where}: expected a finite number, found {document}")
