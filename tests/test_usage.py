"""How codes are used, worked by hand and from the definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tessera.usage import levels


def test_levels_by_hand():
    first, second = levels(np.array([[5, 0], [5, 1], [5, 2], [5, 3]]))
    assert first == (1, 1.0, 0.0)
    assert math.copysign(1, first.entropy) == 1
    assert second == (4, 4.0, 2.0)
    assert levels(np.array([[0], [0], [0], [1]]))[0].entropy == pytest.approx(0.811278, abs=1e-6)
    assert levels(np.empty((0, 2), dtype=np.int64)) == [(0, 0.0, 0.0), (0, 0.0, 0.0)]


@given(arrays(np.int64, st.tuples(st.integers(1, 20), st.integers(1, 3)), elements=st.integers(0, 3)))
def test_against_definitions(codes):
    for column, level in zip(codes.T.tolist(), levels(codes), strict=True):
        shares = [column.count(code) / len(column) for code in set(column)]
        assert level.codes_used == len(shares)
        assert level.entropy == pytest.approx(-sum(share * math.log2(share) for share in shares), abs=1e-9)
        assert 1 <= level.perplexity <= level.codes_used + 1e-9
