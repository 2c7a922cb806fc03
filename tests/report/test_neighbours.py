import numpy as np
import polars as pl
import pytest

from tessera.report.neighbours import draw_items, nearest, neighbours_of, overlap, same_code, unit_rows
from tessera.schemas import VECTORS
from tests.finished_run import key_of, semantic_ids, shop_items


def table(rows, *, absent=()):
    schema = VECTORS | {"vector": pl.Array(pl.Float32, 2)}
    return pl.DataFrame([(i, row, i not in absent) for i, row in enumerate(rows)], schema=schema, orient="row")


def around(count, *, turned=0.0):
    """Directions at even angles: the nearest of each are the two beside it."""
    angles = turned + np.arange(count) * 2 * np.pi / count
    return [[np.cos(angle), np.sin(angle)] for angle in angles]


def found(generator=0, **vectors):
    return neighbours_of(vectors, semantic_ids(("text",)), shop_items(), generator=np.random.default_rng(generator))


def test_nearest_by_hand():
    rows = np.array([[1, 0], [0, 1], [0.8, 0.6], [-1, 0]], np.float32)
    near = nearest(rows, np.array([0, 3]), count=2)
    assert near.places.tolist() == [[2, 1], [1, 2]]
    assert near.similarities.tolist() == [pytest.approx([0.8, 0]), pytest.approx([0, -0.8])]


def test_rows_have_length_one_and_nothing_stays_nothing():
    assert unit_rows(table([[3, 4], [0, 0], [1, 1]]), np.array([0, 1])).tolist() == [pytest.approx([0.6, 0.8]), [0, 0]]


def test_overlap_by_hand():
    assert overlap(np.array([[1, 2], [5, 6]]), np.array([[2, 3], [6, 5]])) == 0.75


def test_same_code_by_hand():
    codes = np.array([4, 4, 4, 9])
    nearest, others = same_code(codes, np.array([0, 3]), np.array([[1, 3], [0, 1]]))
    assert nearest == 0.25
    assert others == pytest.approx((2 / 3 + 0) / 2)


def test_modalities_that_agree_share_all_and_are_marked():
    rows = around(30)
    told = found(text=table(rows), image=table(rows))
    assert (told.candidates, told.compared, told.by_chance) == (30, 30, pytest.approx(10 / 29))
    assert [(each.modalities, each.share) for each in told.shared] == [(("text", "image"), 1)]
    assert [each.modality for each in told.kept] == ["text"]
    assert all(near.elsewhere for query in told.queries for near in query.nearest["image"])


def test_one_of_few_items_is_never_near():
    """Else all would be near each other, by chance as well as by anything else."""
    told = found(text=table(around(4)))
    assert {len(query.nearest["text"]) for query in told.queries} == {2}
    assert told.by_chance == pytest.approx(2 / 3)


def test_neighbours_of_those_that_have_all_modalities():
    told = found(text=table(around(8), absent={1, 7}))
    first = next((query for query in told.queries if query.key == key_of(0)), None)
    assert told.candidates == 6
    assert first is not None
    assert {near.key for near in first.nearest["text"][:2]} == {key_of(2), key_of(6)}
    assert not any(near.elsewhere for near in first.nearest["text"])
    assert told.shared == []


@pytest.mark.parametrize("vectors", [{}, {"text": table(around(2))}, {"text": table(around(5), absent={0, 1, 2})}])
def test_too_few(vectors):
    assert found(**vectors) is None


def test_some_of_many_items_are_drawn():
    drawn = draw_items(100, most=7, generator=np.random.default_rng(0))
    assert len(set(drawn.tolist())) == 7
    assert drawn.tolist() == sorted(drawn.tolist())
    assert draw_items(5, most=7, generator=np.random.default_rng(0)).tolist() == list(range(5))
