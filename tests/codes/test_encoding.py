"""Codes of all items: the same as those of one batch, whatever the batches."""

import numpy as np
import pytest
import torch

from tessera.codes import encoding
from tessera.codes.encoding import encode
from tessera.codes.quantizer import CrossModalQuantizer, initialise_layers
from tessera.errors import CheckpointError

CPU = torch.device("cpu")


@pytest.fixture
def quantizer(shop):
    def make(**changes):
        built = CrossModalQuantizer(shop().architecture(**changes))
        generator = torch.Generator().manual_seed(0)
        initialise_layers(built, generator=generator)
        for part in built.parts:
            torch.nn.init.normal_(part.codebooks, generator=generator)
        return built

    return make


@pytest.mark.parametrize("rows", [1, 7, 60, 120, 1000])
def test_batches_do_not_change_codes(shop, quantizer, monkeypatch, rows):
    vectors = shop().vectors["text"]
    whole = quantizer()({"text": vectors, "image": shop().vectors["image"]})["text"]
    monkeypatch.setattr(encoding, "rows_in_block", lambda _: rows)
    paths = encode(quantizer(), "text", vectors, device=CPU)
    assert np.array_equal(paths.codes, whole.codes.numpy())
    np.testing.assert_allclose(paths.residuals, whole.residuals[1].detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("levels", "second_last"), [(1, 0), (2, 0), (4, 2)])
def test_residuals_are_those_before_the_second_last_level(shop, quantizer, levels, second_last):
    built, vectors = quantizer(levels=levels), shop().vectors["text"]
    paths = encode(built, "text", vectors, device=CPU)
    residuals = built.of("text")(vectors).residuals[second_last]
    np.testing.assert_allclose(paths.residuals, residuals.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert paths.codebooks.shape == (levels, 8, 4)


def test_equal_vectors_get_equal_residuals_in_whatever_batch(shop, quantizer, monkeypatch):
    vectors = shop().vectors["text"][:1].repeat(100, 1)
    monkeypatch.setattr(encoding, "rows_in_block", lambda _: 33)
    residuals = encode(quantizer(), "text", vectors, device=CPU).residuals
    assert (residuals == residuals[0]).all()


def test_no_items_have_no_codes(quantizer):
    assert encode(quantizer(), "text", torch.empty(0, 10), device=CPU).codes.shape == (0, 3)


def test_residuals_that_are_no_numbers_are_refused(shop, quantizer):
    built, vectors = quantizer(), shop().vectors["text"].clone()
    vectors[2] = torch.inf
    count = len(vectors)
    with pytest.raises(
        CheckpointError, match=rf"finite residuals of text, found others in 1 of {count} items; .*quant.lr"
    ):
        encode(built, "text", vectors, device=CPU)


def test_vectors_of_another_width_are_refused(shop, quantizer):
    with pytest.raises(CheckpointError, match="expected text vectors of width 10, found 11"):
        encode(quantizer(), "text", shop().vectors["image"], device=CPU)
