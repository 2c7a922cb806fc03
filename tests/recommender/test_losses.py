import math

import pytest
import torch
from torch import nn

from tessera.recommender.losses import TrainingLosses, implicit_alignment, symmetric_info_nce, token_losses


def test_token_losses_are_the_models_own_loss_times_the_tokens(world, model):
    here = world()
    network, samples = model(here).eval(), here.samples()
    rows = torch.arange(0, 300, 17)
    source, target = samples.source.padded(rows), samples.target.padded(rows)
    expected = network(input_ids=source, attention_mask=source != 0, labels=target).loss * target.numel()
    assert torch.allclose(token_losses(network, source, target), expected, rtol=1e-5)


def test_padding_changes_no_loss(world, model):
    here = world()
    network, samples = model(here).eval(), here.samples()
    rows = torch.tensor([0, 200, 450])
    together = token_losses(network, samples.source.padded(rows), samples.target.padded(rows))
    alone = [token_losses(network, samples.source.padded(row[None]), samples.target.padded(row[None])) for row in rows]
    assert torch.allclose(together, torch.stack(alone).sum(), rtol=1e-5)


def test_info_nce_by_hand():
    """Two rows at right angles, temperature 1: each direction is -log(e / (e + 1))."""
    rows = torch.eye(2)
    expected = math.log((math.e + 1) / math.e)
    assert math.isclose(float(symmetric_info_nce(rows, rows, temperature=1.0)), expected, rel_tol=1e-6)


def test_info_nce_equals_its_slow_twin():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(6, 4, generator=generator) for _ in range(2))
    total = 0.0
    for a, b in ((one, other), (other, one)):
        for i in range(6):
            similar = [float(nn.functional.cosine_similarity(a[i], b[j], dim=0)) / 0.3 for j in range(6)]
            total -= similar[i] - math.log(sum(map(math.exp, similar)))
    assert math.isclose(float(symmetric_info_nce(one, other, temperature=0.3)), total / 12, rel_tol=1e-5)


def test_info_nce_is_least_for_the_right_pairs():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8, 4, generator=generator)
    right = symmetric_info_nce(rows, rows, temperature=0.1)
    assert right < symmetric_info_nce(rows, rows.roll(1, 0), temperature=0.1)


def test_implicit_alignment_pairs_each_items_own_ids(world, model):
    """With one modality's IDs given twice every pair is equal, so that only a wrong pairing could lower similarity."""
    here = world()
    network, ids, items = model(here).eval(), here.ids(), torch.tensor([3, 9, 20, 1])
    same = implicit_alignment(network, {"a": ids["text"].long(), "b": ids["text"].long()}, items, temperature=0.1)
    shifted = implicit_alignment(
        network, {"a": ids["text"].long(), "b": ids["text"].long().roll(1, 0)}, items, temperature=0.1
    )
    assert same < shifted


def test_implicit_alignment_of_three_modalities_is_the_mean_over_pairs(world, model):
    here = world()
    network, items = model(here).eval(), torch.tensor([0, 5, 7])
    text, image = (tokens.long() for tokens in here.ids().values())
    pairs = [{"a": text, "b": image}, {"a": text, "b": text}, {"a": image, "b": text}]
    expected = torch.stack([implicit_alignment(network, pair, items, temperature=0.2) for pair in pairs]).mean()
    three = implicit_alignment(network, {"a": text, "b": image, "c": text}, items, temperature=0.2)
    assert torch.allclose(three, expected, rtol=1e-5)


@pytest.mark.parametrize(("weight", "modalities", "is_zero"), [(0.5, 2, False), (0.0, 2, True), (0.5, 1, True)])
def test_training_losses_look_at_alignment_only_where_there_is_something_to_align(
    world, model, weight, modalities, is_zero
):
    here = world()
    ids = dict(list(here.ids().items())[:modalities])
    losses = TrainingLosses(model(here), ids, lambda_implicit=weight, temperature=0.1)
    samples, rows = here.samples(), torch.arange(20)
    _, implicit = losses(samples.source.padded(rows), samples.target.padded(rows), samples.items[rows])
    assert (implicit.item() == 0) == is_zero


def test_repeated_target_items_count_once(world, model):
    here = world()
    losses = TrainingLosses(model(here), here.ids(), lambda_implicit=1.0, temperature=0.1).eval()
    samples, rows = here.samples(), torch.arange(5)
    source, target = samples.source.padded(rows), samples.target.padded(rows)
    once = losses(source, target, torch.tensor([1, 2, 3, 4, 5]))[1]
    repeated = losses(source[[0, 1, 2, 3, 4, 0]], target[[0, 1, 2, 3, 4, 0]], torch.tensor([1, 2, 3, 4, 5, 1]))[1]
    assert torch.allclose(once, repeated)
