"""Residual quantisation, worked by hand."""

import torch

from tessera.residual import (
    dead_codes,
    quantise,
    quantization_loss,
    replace_codes,
    residual_kmeans,
    summed,
)

#: Two levels of two codes.
CODEBOOKS = torch.tensor([[[0.0, 0.0], [4.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])


def test_quantise_by_hand():
    steps = quantise(torch.tensor([[5.0, 0.0], [0.0, 2.0]]), CODEBOOKS)
    assert steps.codes.tolist() == [[1, 0], [0, 1]]
    assert steps.residuals.tolist() == [[[5.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 2.0]]]
    assert steps.code_vectors.tolist() == [[[4.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]


def test_the_last_level_alone_may_choose_otherwise():
    steps = quantise(torch.tensor([[5.0, 0.0]]), CODEBOOKS, last=lambda points, _: torch.ones(len(points)).long())
    assert steps.codes.tolist() == [[1, 1]]


def test_the_gradient_of_a_sum_goes_straight_through():
    points = torch.tensor([[5.0, 0.0]], requires_grad=True)
    codebooks = CODEBOOKS.clone().requires_grad_()
    through = summed(points, quantise(points, codebooks).code_vectors)
    assert through.tolist() == [[5.0, 0.0]]
    (through * torch.tensor([[2.0, 3.0]])).sum().backward()
    assert points.grad.tolist() == [[2.0, 3.0]]
    assert codebooks.grad is None


def test_quantization_loss_by_hand():
    residuals = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 1.0]]])  # 2 levels, 2 items
    codes = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    # Level 0: (4 + 0) / 2 = 2; level 1: (9 + 1) / 2 = 5; each once for the codes and alpha times for the encoder.
    assert quantization_loss(residuals, codes, alpha=0.25).tolist() == [2.5, 6.25]
    assert quantization_loss(residuals, codes, alpha=0.0).tolist() == [2.0, 5.0]


def test_each_level_clusters_what_the_one_before_left():
    draw = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(12, 10, generator=draw)
    points = centres[torch.randint(12, (480,), generator=draw)] + torch.randn(480, 10, generator=draw)
    codebooks = residual_kmeans(points, levels=3, size=4, generator=torch.Generator().manual_seed(0))
    assert codebooks.shape == (3, 4, 10)
    left, errors = points, []
    for centres in codebooks:
        nearest = torch.cdist(left, centres).argmin(1)
        means = torch.stack([left[nearest == number].mean(0) for number in range(4)])
        torch.testing.assert_close(centres, means, rtol=1e-3, atol=1e-3)
        left = left - centres[nearest]
        errors.append(float(left.square().sum()))
    assert errors[0] > errors[1] > errors[2]


def test_dead_codes_by_hand():
    unused = torch.tensor([[1, 1, 0]])
    assert dead_codes(unused, torch.tensor([[True, False, False]]), limit=2).tolist() == [[False, True, False]]
    assert unused.tolist() == [[0, 0, 1]]
    assert not dead_codes(unused, torch.zeros(1, 3, dtype=torch.bool), limit=0).any()


def test_a_dead_code_goes_to_a_residual_of_its_level():
    codebooks, dead = torch.zeros(3, 8, 4), torch.zeros(3, 8, dtype=torch.bool)
    dead[1, 5] = dead[2, 0] = True
    residuals = torch.arange(3.0)[:, None, None].expand(3, 120, 4)
    replace_codes(codebooks, dead, residuals, generator=torch.Generator())
    assert codebooks[1, 5].tolist() == [1.0] * 4
    assert codebooks[2, 0].tolist() == [2.0] * 4
    assert int((codebooks != 0).any(-1).sum()) == 2
