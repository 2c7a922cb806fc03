"""Embed what items look like: by plain descriptors, or whatever else a picture can be given to.

Pictures are read from their table and decoded a batch at a time. An item without a picture, or with one that cannot
be decoded, is absent.
"""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from tessera.errors import DataError, TableError
from tessera.items.encoding import Part, encode_all
from tessera.items.fitted import Fitted
from tessera.items.progress import Progress, silently
from tessera.items.vectors import Vectors

if TYPE_CHECKING:
    from accelerate import Accelerator

Prepared = TypeVar("Prepared")
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

#: Descriptors look at pictures of this side, in pixels.
SIDE = 64
#: Colour histograms: cells a side, coarse to fine; bins of hue, saturation and value.
COLOUR_CELLS = (1, 2)
COLOUR_BINS = (8, 3, 3)
#: Edge histograms: cells a side, coarse to fine; bins of orientation over half a turn.
EDGE_CELLS = (2, 4)
EDGE_BINS = 8
#: A cell whose edges add up to less than about this is plain; one is a step from black to white.
EDGE_FLOOR = 0.001
#: Width of each block of a descriptor.
BLOCKS = (*(cells**2 * prod(COLOUR_BINS) for cells in COLOUR_CELLS), *(cells**2 * EDGE_BINS for cells in EDGE_CELLS))
#: Grey of red, green and blue (ITU-R BT.601).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
BRIGHTEST = 255
#: Values of a byte.
SHADES = 256
#: A block of a descriptor that varies less, as a mean squared distance from the mean, is rounding, not data.
FLAT = 1e-9
#: Variances below this share of the largest are rounding, not data.
RANK_TOLERANCE = 1e-10
#: Rows whose covariance is summed at once, in double precision.
SUMMED_ROWS = 8192


class Pictures(NamedTuple):
    """Some items' pictures, as they are stored."""

    rows: NDArray[np.int64]  # (B,)
    files: list[bytes]  # B


class DescriptorEncoder(NamedTuple):
    """What `descriptors` has learned of a catalogue: F features of a picture, D of a vector."""

    mean: Floats  # (F,)
    scales: Floats  # (F,) that of each feature's block
    axes: Floats  # (F, D) the principal components

    def encode(self, features: Floats) -> Floats:
        """Return vectors (N, D) of length 1 for what is `described` (N, F)."""
        reduced = _on_one_thread(np.matmul, (features - self.mean) * self.scales, self.axes)
        return reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), np.finfo(np.float32).tiny)

    def fitted(self) -> Fitted:
        """Return what from_fitted reads."""
        return Fitted("descriptors", self._asdict())

    @classmethod
    def from_fitted(cls, fitted: Fitted) -> "DescriptorEncoder":
        """Return the encoder that `fitted` was of."""
        return cls(**fitted.arrays)


class LearnedPictures(NamedTuple):
    """What plain descriptors make of pictures, and what makes the same of others; None where there is no picture."""

    vectors: Vectors
    encoder: DescriptorEncoder | None


def descriptors(
    path: Path,
    keys: pl.Series,
    *,
    dimensions: int,
    batch_size: int,
    progress: Progress = silently,
    known: DescriptorEncoder | None = None,
) -> LearnedPictures:
    """Return vectors (N, D) of length 1 for the pictures at path of the items with keys: no network, no download.

    `described` is centred, its blocks are given equal energy, and their principal components are kept: D is
    dimensions, or the rank where that is less. What is known already of a catalogue is not learned from these pictures.

    Raises DataError where there are not two pictures that differ, and nothing is known.
    """
    prepare = partial(squared, side=SIDE)
    found = embedded(
        path, keys, prepare, lambda pixels: described(np.stack(pixels)), batch_size=batch_size, progress=progress
    )
    if not found.present.any():
        return LearnedPictures(found, known)
    features = found.vectors[found.present]
    encoder = known or fit_descriptors(features, dimensions=dimensions)
    reduced = encoder.encode(features)
    vectors = np.zeros((len(keys), reduced.shape[1]), np.float32)
    vectors[found.present] = reduced
    return LearnedPictures(Vectors(vectors, found.present), encoder)


def fit_descriptors(features: Floats, *, dimensions: int) -> DescriptorEncoder:
    """Return what encodes pictures like those that are `described` (N, F); raise DataError where all are alike."""
    mean, scales = balance(features)
    return DescriptorEncoder(mean, scales, principal_axes((features - mean) * scales, dimensions=dimensions))


def embedded(
    path: Path,
    keys: pl.Series,
    prepare: Callable[[Image.Image], Prepared],
    encode: Callable[[list[Prepared]], Floats],
    *,
    batch_size: int,
    accelerator: "Accelerator | None" = None,
    progress: Progress,
    scratch: Path | None = None,
) -> Vectors:
    """Return what encode makes (B, D) of a batch, for all the pictures at path of the items with keys: vectors (N, D).

    They are decoded and prepared on all processor cores.
    """

    def prepared(file: bytes) -> Prepared | None:
        picture = decoded(file)
        return None if picture is None else prepare(picture)

    def encode_batch(batch: Pictures) -> Part:
        ready = {place: one for place, one in enumerate(cores.map(prepared, batch.files)) if one is not None}
        vectors = encode(list(ready.values())) if ready else np.zeros((0, 0), np.float32)
        return Part(batch.rows[list(ready)], vectors)

    with ThreadPoolExecutor() as cores:
        return encode_all(
            read_pictures(path, keys, batch_size=batch_size),
            encode_batch,
            rows=len(keys),
            count=-(-len(keys) // batch_size),
            title="pictures",
            accelerator=accelerator,
            progress=progress,
            scratch=scratch,
        )


def squared_pictures(path: Path, keys: pl.Series, *, side: int, batch_size: int) -> Iterator[Pixels]:
    """Yield the pictures at path of the items with keys, squared (B, side, side, 3); those that can be decoded."""

    def prepared(file: bytes) -> Pixels | None:
        picture = decoded(file)
        return None if picture is None else squared(picture, side=side)

    with ThreadPoolExecutor() as cores:
        for batch in read_pictures(path, keys, batch_size=batch_size):
            ready = [pixels for pixels in cores.map(prepared, batch.files) if pixels is not None]
            if ready:
                yield np.stack(ready)


def squared(picture: Image.Image, *, side: int) -> Pixels:
    """Return a picture as bytes (side, side, 3), whatever its own proportions are."""
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


def read_pictures(path: Path, keys: pl.Series, *, batch_size: int) -> Iterator[Pictures]:
    """Yield the pictures in the table at path (key, picture) of the items with keys, at most batch_size at a time.

    Raises TableError where the file is missing or has no such columns.
    """
    rows = pl.DataFrame({"key": keys}).with_row_index("row")
    try:
        with pq.ParquetFile(path) as file:
            for batch in _batches(file, batch_size=batch_size, columns=["key", "picture"]):
                table = pl.DataFrame(pa.table(batch)).drop_nulls("picture")
                held = table.join(rows, on="key", maintain_order="left")
                if held.height:
                    yield Pictures(held["row"].to_numpy().astype(np.int64), held["picture"].to_list())
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise TableError(f"{path}: expected a table of key and picture: {error}") from error


def _batches(file: pq.ParquetFile, *, batch_size: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of file, row group by row group: over several of them pyarrow keeps what it has read."""
    for number in range(file.num_row_groups):
        yield from file.iter_batches(batch_size, row_groups=[number], columns=columns)


def decoded(file: bytes) -> Image.Image | None:
    """Return a stored picture in RGB, or None where it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(file)) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def described(pixels: Pixels) -> Floats:
    """Return what plain counting tells of pictures (B, SIDE, SIDE, 3): the blocks of `BLOCKS`, side by side.

    Histograms of colours and of edge orientations (Dalal and Triggs 2005), each over the cells of a coarse and of a
    finer grid (a spatial pyramid, Lazebnik et al. 2006), and of all the square root, which turns Euclidean distance
    into Hellinger's.
    """
    colours = [_colours(pixels, cells=cells) for cells in COLOUR_CELLS]
    edges = [_edges(pixels, cells=cells) for cells in EDGE_CELLS]
    return np.sqrt(np.concatenate(colours + edges, axis=1)).astype(np.float32)


def balance(matrix: Floats) -> tuple[Floats, Floats]:
    """Return the mean (F,) of descriptors (N, F), and the scale (F,) of each feature.

    Centred and scaled so, each block has the same mean squared length: 1, or 0 if it never varies. No kind of
    descriptor outweighs another just because it has more bins or larger numbers.
    """
    mean = matrix.mean(axis=0, dtype=np.float64).astype(np.float32)
    blocks = np.split(matrix - mean, np.cumsum(BLOCKS)[:-1], axis=1)
    energies = [np.square(block, dtype=np.float64).sum(axis=1).mean() for block in blocks]
    scales = [1 / np.sqrt(energy) if energy > FLAT else 0 for energy in energies]
    return mean, np.repeat(np.array(scales, np.float32), BLOCKS)


def principal_axes(matrix: Floats, *, dimensions: int) -> Floats:
    """Return the first principal components (F, D) of a centred matrix (N, F), D = dimensions or the rank if less.

    The axes are exact eigenvectors of the covariance, so nothing is drawn at random; of each, the entry largest by
    magnitude is positive.

    Raises DataError where all rows are equal.
    """
    return _on_one_thread(_principal_axes, matrix, dimensions)


def _on_one_thread(work: Callable[..., Floats], *arguments: Any) -> Floats:
    """Return work(*arguments), computed by one thread: the last bits would change with their number."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        return work(*arguments)


def _principal_axes(matrix: Floats, dimensions: int) -> Floats:
    covariance = np.zeros((matrix.shape[1], matrix.shape[1]))
    for start in range(0, len(matrix), SUMMED_ROWS):
        rows = matrix[start : start + SUMMED_ROWS].astype(np.float64)
        covariance += rows.T @ rows
    variances, axes = np.linalg.eigh(covariance)
    if not variances[-1] > 0:
        raise DataError(f"image: expected pictures that differ, found {len(matrix)} that are all alike")
    axes = axes[:, variances > RANK_TOLERANCE * variances[-1]][:, : -dimensions - 1 : -1]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return np.asarray((axes * np.sign(largest)).astype(np.float32))


def _colours(pixels: Pixels, *, cells: int) -> NDArray[np.float64]:
    """Return the share of each colour in each cell: (B, cells * cells * product of COLOUR_BINS)."""
    strip = Image.fromarray(pixels.reshape(-1, SIDE, 3)).convert("HSV")
    channels = np.moveaxis(np.asarray(strip).reshape(pixels.shape), -1, 0).astype(np.int64)
    binned = [channel * bins // SHADES for channel, bins in zip(channels, COLOUR_BINS, strict=True)]
    colours = np.ravel_multi_index(tuple(binned), COLOUR_BINS)
    return _histograms(colours, np.ones(colours.shape), cells=cells, bins=prod(COLOUR_BINS)) * (cells / SIDE) ** 2


def _edges(pixels: Pixels, *, cells: int) -> NDArray[np.float64]:
    """Return the strength of edges by orientation in each cell, of length 1 in all: (B, cells * cells * EDGE_BINS)."""
    grey = pixels @ LUMA / BRIGHTEST
    down, right = np.gradient(grey, axis=(1, 2))
    orientation = np.mod(np.arctan2(down, right), np.pi) / np.pi
    bins = np.minimum((orientation * EDGE_BINS).astype(np.int64), EDGE_BINS - 1)
    histograms = _histograms(bins, np.hypot(down, right), cells=cells, bins=EDGE_BINS)
    return histograms / (np.linalg.norm(histograms, axis=1, keepdims=True) + EDGE_FLOOR)


def _histograms(
    values: NDArray[np.int64], weights: NDArray[np.floating[Any]], *, cells: int, bins: int
) -> NDArray[np.float64]:
    """Return the weighted counts of values (B, SIDE, SIDE) below bins in each cell: (B, cells * cells * bins)."""
    places = np.arange(SIDE) * cells // SIDE
    cell = places[:, np.newaxis] * cells + places
    picture = np.arange(len(values))[:, np.newaxis, np.newaxis]
    slots = (picture * cells**2 + cell) * bins + values
    counts = np.bincount(slots.ravel(), weights.ravel(), minlength=len(values) * cells**2 * bins)
    return np.asarray(counts, np.float64).reshape(len(values), -1)
