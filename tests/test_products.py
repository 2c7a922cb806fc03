"""Products by oneDNN against those of `torch.nn.functional`, and which of the two a processor takes."""

import pytest
import torch
from torch import nn

from tessera import products
from tessera.products import Linear, linear

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")

SHAPES = [((40, 24), 8), ((40, 8), 24), ((3, 7, 16), 16), ((2, 3, 5, 12), 6), ((1, 4), 1)]


@pytest.fixture
def asked(monkeypatch):
    """Have oneDNN multiply whatever the processor and the shapes; return what it was asked for."""
    seen = []
    product = products._product

    def noted(rows, weights, bias=None):
        seen.append((tuple(rows.shape), tuple(weights.shape)))
        return product(rows, weights, bias)

    monkeypatch.setattr(products, "is_onednn_faster", lambda: True)
    monkeypatch.setattr(products, "WORTH_A_KERNEL", 0)
    monkeypatch.setattr(products, "_product", noted)
    return seen


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


@needs_onednn
@pytest.mark.parametrize(("shape", "outer"), SHAPES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_products_and_their_gradients_are_those_of_torch(asked, shape, outer, has_bias):
    rows, weights = drawn(*shape), drawn(outer, shape[-1], seed=1)
    bias = drawn(outer, seed=2) if has_bias else None
    slopes = torch.randn(*shape[:-1], outer, generator=torch.Generator().manual_seed(3))
    inputs = [each for each in (rows, weights, bias) if each is not None]
    found, expected = linear(rows, weights, bias), nn.functional.linear(rows, weights, bias)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)
    theirs = torch.autograd.grad(expected, inputs, slopes)
    before = len(asked)
    ours = torch.autograd.grad(found, inputs, slopes)
    assert len(asked) == before + 2  # by rows and by weights
    for mine, their in zip(ours, theirs, strict=True):
        assert mine.shape == their.shape
        assert mine.is_contiguous()
        assert torch.allclose(mine, their, atol=1e-5)


@needs_onednn
def test_only_what_is_wanted_is_multiplied(asked):
    rows, weights = drawn(10, 4).detach(), drawn(3, 4)
    linear(rows, weights).sum().backward()
    assert len(asked) == 2  # forward, and the gradient of the weights
    with torch.no_grad():
        assert not linear(rows, weights).requires_grad
    assert len(asked) == 3


@needs_onednn
def test_a_bias_may_lie_apart(asked):
    rows, weights, wide = drawn(10, 4).detach(), drawn(3, 4).detach(), drawn(6, seed=1).detach()
    for bias in (wide[::2], wide[:1].expand(3)):
        assert torch.allclose(linear(rows, weights, bias), rows @ weights.T + bias, atol=1e-5)
    assert len(asked) == 2


@needs_onednn
def test_what_lies_the_wrong_way_round_is_multiplied_too(asked):
    rows, weights = drawn(6, 9).detach().T, drawn(6, 4).detach().T
    with torch.inference_mode():
        assert torch.allclose(linear(rows, weights), rows @ weights.T, atol=1e-5)
    assert asked


@needs_onednn
@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4)])
def test_a_product_can_be_changed_in_place(asked, shape):
    rows, weights = drawn(*shape), drawn(3, 4, seed=1)
    linear(rows, weights).relu_().sum().backward()
    expected = torch.autograd.grad(nn.functional.linear(rows, weights).relu().sum(), [rows, weights])
    assert torch.allclose(rows.grad, expected[0], atol=1e-5)
    assert torch.allclose(weights.grad, expected[1], atol=1e-5)
    assert asked


@needs_onednn
def test_the_same_product_has_the_same_bytes_each_time(asked):
    rows, weights = drawn(500, 64).detach(), drawn(48, 64, seed=1).detach()
    with torch.no_grad():
        assert torch.equal(linear(rows, weights), linear(rows, weights))
    assert len(asked) == 2


@needs_onednn
def test_a_layer_has_the_weights_and_the_results_of_torchs(asked):
    theirs, ours = nn.Linear(5, 3), Linear(5, 3)
    ours.load_state_dict(theirs.state_dict())
    rows = drawn(7, 5)
    assert torch.allclose(ours(rows), theirs(rows), atol=1e-6)
    assert asked


@needs_onednn
def test_other_types_and_autocast_are_left_to_torch(asked):
    rows, weights = drawn(6, 4), drawn(3, 4, seed=1)
    assert linear(rows.double(), weights.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(rows, weights).dtype == torch.bfloat16
    assert not asked


@needs_onednn
def test_a_small_product_is_not_worth_a_kernel(asked, monkeypatch):
    monkeypatch.setattr(products, "WORTH_A_KERNEL", 6 * 4 * 3)
    linear(drawn(5, 4), drawn(3, 4))
    assert not asked
    linear(drawn(6, 4), drawn(3, 4))
    assert asked


@pytest.mark.parametrize(
    ("name", "has_512_bits", "expected"),
    [
        ("AMD EPYC 9355", True, True),
        ("AMD EPYC 7763", False, False),
        ("Intel(R) Xeon(R) Platinum 8481C", True, False),
    ],
)
def test_onednn_is_faster_where_mkl_leaves_half_the_width_unused(monkeypatch, name, has_512_bits, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name, "avx512_f": has_512_bits})
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert products.is_onednn_faster.__wrapped__() is expected


def test_a_torch_without_onednn_is_none_the_worse(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not products.is_onednn_faster.__wrapped__()
