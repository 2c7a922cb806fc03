"""Vectors block by block, and those of several modalities as one."""

import numpy as np
import polars as pl
import pytest
import torch

from tessera.codes.losses import ABSENT
from tessera.codes.rows import Fused, moments
from tessera.codes.tables import Vectors, fused, stack_labels
from tessera.errors import DataError
from tessera.schemas import LABELS

EVERYONE = torch.ones(4, dtype=torch.bool)


def test_moments_by_hand():
    vectors = torch.tensor([[0.0, 2], [2, 2], [4, 2], [9, 9]])
    found = moments(vectors, "text", present=torch.tensor([True, True, True, False]))
    assert found.centre.tolist() == [2, 2]
    assert found.deviation == pytest.approx((8 / 6) ** 0.5)


@pytest.mark.parametrize("blocks", [1, 3])
def test_fused_vectors_lie_side_by_side_and_each_modality_has_the_same_say(monkeypatch, blocks):
    monkeypatch.setattr("tessera.codes.rows.BLOCK", 8 * blocks)
    draw = np.random.default_rng(0)
    parts = {
        "text": torch.from_numpy(draw.normal(5, 3, size=(40, 8)).astype(np.float32)),
        "image": torch.from_numpy(draw.normal(-1, 0.1, size=(40, 2)).astype(np.float32)),
    }
    rows = Fused(parts, {name: torch.ones(40, dtype=torch.bool) for name in parts})
    assert rows.shape == (40, 10)
    every = rows[:]
    assert every.mean(0).abs().max() < 1e-5
    assert every[:, :8].square().sum(1).mean().item() == pytest.approx(1, rel=1e-4)
    assert every[:, 8:].square().sum(1).mean().item() == pytest.approx(1, rel=1e-4)
    some = torch.tensor([3, 0, 3])
    assert torch.equal(rows[some], every[some])
    gaps, fused_gaps = (table[0] - table[1:] for table in (parts["text"], every[:, :8]))
    ratios = gaps.norm(dim=1) / fused_gaps.norm(dim=1)
    assert torch.allclose(ratios, ratios[:1].expand_as(ratios), rtol=1e-4)  # distances within a modality stay


def test_an_item_has_the_fused_modality_where_it_has_any():
    parts = {"text": torch.randn(4, 2), "image": torch.randn(4, 3)}
    present = {"text": torch.tensor([True, True, False, False]), "image": torch.tensor([True, False, True, False])}
    rows, there = fused(parts, present)
    assert list(rows) == list(there) == ["joint"]
    assert there["joint"].tolist() == [True, True, True, False]
    catalogue = Vectors(np.arange(4, dtype=np.uint32), rows, there)
    assert stack_labels(pl.DataFrame(schema=LABELS), catalogue)["joint"].tolist() == [0, 0, 0, ABSENT]


def test_a_modality_that_no_item_has_cannot_be_fused():
    with pytest.raises(DataError, match="image: expected an item that has this modality, found none among 4"):
        Fused({"text": torch.randn(4, 2), "image": torch.randn(4, 2)}, {"text": EVERYONE, "image": ~EVERYONE})
