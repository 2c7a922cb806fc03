import io
import json
from math import prod

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tessera.errors import DataError, TableError
from tessera.items import image_encoders
from tessera.items.demo_pictures import COLOURS, DRAWN, PATTERNS, draw_picture
from tessera.items.image_encoders import (
    BLOCKS,
    COLOUR_BINS,
    EDGE_BINS,
    SIDE,
    balance,
    decoded,
    described,
    descriptors,
    principal_axes,
    read_pictures,
)
from tests.stored_pictures import KEYS, PRESENT, noise, stored, written


def plain(*colour):
    return np.full((1, SIDE, SIDE, 3), colour, np.uint8)


def blocks_of(pixels):
    """The descriptor's blocks, by hand undone: the square root, and the cells that lie behind each other."""
    blocks = np.split(described(pixels)[0] ** 2, np.cumsum(BLOCKS)[:-1])
    bins = [prod(COLOUR_BINS)] * 2 + [EDGE_BINS] * 2
    return [block.reshape(-1, width) for block, width in zip(blocks, bins, strict=True)]


def shares(vectors, labels, *, neighbours=10):
    """How often one of the nearest neighbours by cosine has the item's own label."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    near = np.argsort(-similarity, axis=1)[:, :neighbours]
    return (labels[near] == labels[:, np.newaxis]).mean()


def test_a_plain_picture_has_one_colour_and_no_edges():
    whole, quarters, *edges = blocks_of(plain(255, 0, 0))
    red = np.ravel_multi_index((0, 2, 2), COLOUR_BINS)
    for cells in (whole, quarters):
        assert cells[:, red].tolist() == pytest.approx([1] * len(cells))
        assert cells.sum() == pytest.approx(len(cells))
    assert not np.concatenate(edges).any()


def test_colours_are_counted_cell_by_cell():
    pixels = plain(255, 0, 0)
    pixels[:, : SIDE // 2, : SIDE // 2] = (0, 0, 255)
    whole, quarters, *_ = blocks_of(pixels)
    assert sorted(whole[0])[-2:] == pytest.approx([0.25, 0.75])
    assert quarters.argmax(axis=1).tolist() == [whole[0].argsort()[-2]] + [whole[0].argmax()] * 3


def test_edges_are_counted_by_their_orientation():
    upright, level = plain(0, 0, 0), plain(0, 0, 0)
    upright[:, :, SIDE // 4 :] = 255  # black and white stand side by side: the gradient points right, bin 0
    level[:, SIDE // 4 :] = 255
    for pixels, angle in ((upright, 0), (level, EDGE_BINS // 2)):
        *_, coarse, fine = blocks_of(pixels)
        assert np.flatnonzero(coarse.sum(axis=0)).tolist() == [angle]
        assert np.flatnonzero(fine.sum(axis=0)).tolist() == [angle]
        assert (coarse**2).sum() == pytest.approx(1, abs=1e-3)
    assert np.flatnonzero(blocks_of(upright)[2].sum(axis=1)).tolist() == [0, 2]
    assert np.flatnonzero(blocks_of(level)[2].sum(axis=1)).tolist() == [0, 1]


def test_colour_histograms_equal_a_count_pixel_by_pixel():
    pixels = np.asarray(noise(0, size=(SIDE, SIDE)))[np.newaxis]
    hsv = np.asarray(Image.fromarray(pixels[0]).convert("HSV"))
    expected = np.zeros((4, prod(COLOUR_BINS)))
    for row in range(SIDE):
        for column in range(SIDE):
            h, s, v = (int(value) * bins // 256 for value, bins in zip(hsv[row, column], COLOUR_BINS, strict=True))
            cell = (row >= SIDE // 2) * 2 + (column >= SIDE // 2)
            expected[cell, (h * COLOUR_BINS[1] + s) * COLOUR_BINS[2] + v] += 1 / (SIDE // 2) ** 2
    whole, quarters, *_ = blocks_of(pixels)
    np.testing.assert_allclose(quarters, expected, atol=1e-6)
    np.testing.assert_allclose(whole[0], expected.mean(axis=0), atol=1e-6)


def test_pictures_together_are_described_as_each_alone():
    pixels = np.stack([np.asarray(noise(seed, size=(SIDE, SIDE))) for seed in range(5)])
    together = described(pixels)
    assert together.shape == (5, sum(BLOCKS))
    np.testing.assert_array_equal(together, np.concatenate([described(pixels[i : i + 1]) for i in range(5)]))


def test_blocks_are_centred_and_of_equal_energy():
    matrix = np.random.default_rng(0).normal(3, size=(9, sum(BLOCKS))).astype(np.float32) * np.arange(sum(BLOCKS))
    matrix[:, : BLOCKS[0]] = 5
    mean, scales = balance(matrix.astype(np.float32))
    blocks = np.split((matrix.astype(np.float32) - mean) * scales, np.cumsum(BLOCKS)[:-1], axis=1)
    np.testing.assert_allclose([np.square(block).sum(axis=1).mean() for block in blocks], [0, 1, 1, 1], rtol=1e-4)
    np.testing.assert_allclose(np.concatenate(blocks, axis=1).mean(axis=0), 0, atol=1e-5)


@pytest.mark.parametrize(("rows", "dimensions", "width"), [(30, 4, 4), (30, 99, 10), (5, 99, 4)])
def test_principal_components_equal_those_of_a_full_svd(monkeypatch, rows, dimensions, width):
    monkeypatch.setattr(image_encoders, "SUMMED_ROWS", 7)
    matrix = np.random.default_rng(0).normal(size=(rows, 10)) * np.arange(1, 11)
    matrix -= matrix.mean(axis=0)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    reduced = matrix @ principal_axes(matrix.astype(np.float32), dimensions=dimensions)
    np.testing.assert_allclose(reduced, (left * values * signs)[:, :width], atol=1e-3)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_pictures_that_are_all_alike_are_an_error(tmp_path, count):
    path = written(tmp_path / "images.parquet", [stored(noise(0))] * count)
    with pytest.raises(DataError, match=f"expected pictures that differ, found {count} that are all alike"):
        descriptors(path, pl.Series([str(place) for place in range(count)]), dimensions=4, batch_size=2)


@pytest.mark.parametrize("rows", [2, 3, 100])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_pictures_are_read_in_batches_and_only_those_asked_for(tmp_path, rows, batch_size):
    files = [bytes([place]) for place in range(7)]
    files[3] = None
    path = written(tmp_path / "images.parquet", files, rows=rows)
    batches = list(read_pictures(path, pl.Series([*"9316"]), batch_size=batch_size))
    assert all(0 < len(batch.files) == len(batch.rows) <= batch_size for batch in batches)
    assert [(row, file) for batch in batches for row, file in zip(*batch, strict=True)] == [(2, b"\x01"), (3, b"\x06")]


def test_a_table_without_pictures_is_an_error(tmp_path):
    pl.DataFrame({"key": ["a"]}).write_parquet(tmp_path / "images.parquet")
    (tmp_path / "text").write_text("text")
    for name in ("images.parquet", "text", "nothing"):
        with pytest.raises(TableError, match=f"{name}: expected a table of key and picture"):
            list(read_pictures(tmp_path / name, KEYS, batch_size=1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_pictures_of_any_mode_become_rgb(mode):
    file = io.BytesIO()
    noise(0).convert(mode).save(file, format="TIFF")
    assert decoded(file.getvalue()).mode == "RGB"


@pytest.mark.parametrize("file", [b"", b"<html>", stored(noise(0))[:-200], stored(noise(0))[:30]])
def test_what_is_no_picture_is_none(file):
    assert decoded(file) is None


def test_descriptors_are_unit_vectors_of_the_pictures_there_are(pictures):
    found, _ = descriptors(pictures, KEYS, dimensions=2, batch_size=2)
    assert found.present.tolist() == PRESENT
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), PRESENT, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_descriptors_do_not_depend_on_batches(pictures, batch_size):
    expected, _ = descriptors(pictures, KEYS, dimensions=8, batch_size=3)
    found, _ = descriptors(pictures, KEYS, dimensions=8, batch_size=batch_size)
    np.testing.assert_array_equal(found.vectors, expected.vectors)


@pytest.mark.parametrize(("dimensions", "width"), [(1, 1), (3, 3), (99, 3)])
def test_descriptors_are_as_wide_as_asked_or_as_the_pictures_allow(pictures, dimensions, width):
    assert descriptors(pictures, KEYS, dimensions=dimensions, batch_size=2).vectors.vectors.shape == (7, width)


def test_progress_is_told_of_batches_of_pictures(pictures):
    told = []

    def progress(elements, *, title, total=None):
        told.append((title, total))
        return elements

    descriptors(pictures, KEYS, dimensions=2, batch_size=3, progress=progress)
    assert told == [("pictures", 3)]


def test_descriptors_bring_the_demo_shops_alike_together(tmp_path):
    generator = np.random.default_rng(0)
    values = {"category": [*DRAWN], "colour": [*COLOURS], "pattern": [*PATTERNS]}
    labels = {name: generator.integers(len(names), size=300) for name, names in values.items()}
    files = [
        draw_picture(**{name: values[name][labels[name][item]] for name in values}, generator=generator)
        for item in range(300)
    ]
    path = written(tmp_path / "images.parquet", files)
    found, _ = descriptors(path, pl.Series([str(item) for item in range(300)]), dimensions=64, batch_size=64)
    for name, names in values.items():
        assert shares(found.vectors, labels[name]) > 2 / len(names), name


def test_descriptors_bring_posters_of_one_genre_together(shared_data, tmp_path):
    folder = shared_data("movielens_small")
    lines = (folder / "items.jsonl").read_text().splitlines()[:1200]
    films = [film for film in map(json.loads, lines) if film.get("image") and (folder / film["image"]).is_file()]
    path = written(tmp_path / "images.parquet", [(folder / film["image"]).read_bytes() for film in films], rows=256)
    found, _ = descriptors(path, pl.Series([str(place) for place in range(len(films))]), dimensions=64, batch_size=128)
    drama = np.array(["Drama" in film["categories"] for film in films])
    chance = drama.mean() ** 2 + (1 - drama.mean()) ** 2
    assert found.present.all()
    assert shares(found.vectors, drama) > chance + 0.03
