import math

import polars as pl
import pytest

from tessera.errors import TableError
from tessera.report.code_use import CURVE_POINTS, Level, codes_of, curve_of
from tessera.schemas import IDS
from tessera.usage import Level as Use


def test_codes_by_hand():
    codes = [[0, 1], [0, 2], [0, 3], [1, 4]]
    rows = [(item, "text", each, each, item < 1) for item, each in enumerate(codes)]
    rows += [(0, "image", [5], [5], False)]
    ids = pl.DataFrame(rows, schema=IDS, orient="row")
    rates = {"collision_rate_before": 25.0, "collision_rate_after": 0.0}
    text, image = codes_of({"text": rates, "image": rates}, ids, codebook_size=5, levels=1)
    assert (text.modality, text.before, text.after, text.moved) == ("text", 25.0, 0.0, 1)
    assert [level.sizes for level in text.levels] == [[3, 1], [1, 1, 1, 1]]
    assert [level.codes_used for level in text.levels] == [2, 4]
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert [level.perplexity for level in text.levels] == pytest.approx([math.exp(entropy), 4])
    assert [level.sizes for level in image.levels] == [[1]]
    assert [level.dead for level in text.levels] == [3, None]
    assert image.levels[0].dead is None, "code 5 is beyond a codebook of 5"


def test_how_the_quantizer_used_a_level_is_told_beside_how_it_came_out():
    rows = [(item, "text", [0, item], [0, 0], item > 0) for item in range(3)]
    rates = {"collision_rate_before": 66.7, "collision_rate_after": 0.0}
    before = {"0": {"codes_used": 1, "perplexity": 1.0, "entropy": 0.0}}
    (text,) = codes_of(
        {"text": rates | {"levels_before": before}},
        pl.DataFrame(rows, schema=IDS, orient="row"),
        codebook_size=3,
        levels=2,
    )
    assert [level.before for level in text.levels] == [Use(1, 1.0, 0.0), None]
    assert [level.codes_used for level in text.levels] == [1, 3]


def test_ids_of_unequal_length_have_their_levels():
    rows = [(0, "text", [0, 1, 0], [0, 1], True), (1, "text", [0, 1], [0, 1], False)]
    (text,) = codes_of(
        {"text": {"collision_rate_before": 50.0, "collision_rate_after": 0.0}},
        pl.DataFrame(rows, schema=IDS, orient="row"),
        codebook_size=4,
        levels=2,
    )
    assert [level.sizes for level in text.levels] == [[2], [2], [1]]
    assert [level.dead for level in text.levels] == [3, 3, None], "the level that tells them apart has no codebook"


def test_a_modality_without_rates_is_told():
    ids = pl.DataFrame([(0, "text", [1], [1], False)], schema=IDS, orient="row")
    with pytest.raises(TableError, match=r"collisions: expected text\.collision_rate_before, found no text"):
        codes_of({}, ids, codebook_size=2, levels=2)


def test_curve_by_hand():
    assert curve_of(Level(2, 1, 1.0, [9, 4], None)) == [(1, 9), (2, 4), (3, 0)]
    assert curve_of(Level(2, None, 1.0, [9, 4], None)) == [(1, 9), (2, 4)]


def test_of_many_codes_some_are_taken():
    curve = curve_of(Level(10 * CURVE_POINTS, 0, 1.0, list(range(10 * CURVE_POINTS, 0, -1)), None))
    assert len(curve) == CURVE_POINTS
    assert curve[:2] == [(1, 10 * CURVE_POINTS), (11, 10 * CURVE_POINTS - 10)]
