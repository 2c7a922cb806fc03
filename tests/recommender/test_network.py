"""The network against its slow twin, the forward pass of `transformers`, and its dropout against probability."""

import math

import pytest
import torch
from torch import nn

from tessera.recommender.model import Sizes, new_model
from tessera.recommender.network import Network, _KeptReLU, dropped
from tessera.recommender.vocabulary import PAD

PUBLISHED = Sizes(
    d_model=128, d_ff=1024, d_kv=64, heads=6, encoder_layers=4, decoder_layers=4, dropout=0.1, initializer_factor=1.0
)
SHARE = 0.1


def batch(world, rows):
    samples = world.samples()
    source, target = samples.source.padded(rows), samples.target.padded(rows)
    return source, target, nn.functional.pad(target[:, :-1], (1, 0), value=PAD)


@pytest.fixture
def published(world):
    here = world()
    return here, new_model(here.vocabulary, here.tokens, PUBLISHED, seed=0).eval()


def test_its_logits_are_those_of_transformers(published):
    world, model = published
    source, _, inputs = batch(world, torch.arange(0, 300, 7))
    assert (source == PAD).any()
    network = Network(model)
    found = network.logits(network.decode(inputs, network.encode(source)))
    expected = model(input_ids=source, attention_mask=source != PAD, decoder_input_ids=inputs).logits
    assert torch.allclose(found, expected, atol=1e-4)


def test_several_targets_read_their_source(published):
    world, model = published
    source, _, inputs = batch(world, torch.arange(0, 300, 7))
    inputs = torch.stack([inputs, inputs.roll(1, 0), inputs.roll(2, 0)], dim=1).flatten(0, 1)
    network = Network(model)
    found = network.decode(inputs, network.encode(source))
    expected = network.decode(inputs, network.encode(source.repeat_interleave(3, dim=0)))
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, found.roll(1, 0), atol=1e-2)


def test_its_gradients_are_those_of_transformers(published):
    world, model = published
    source, target, inputs = batch(world, torch.arange(0, 300, 11))
    expected = model(input_ids=source, attention_mask=source != PAD, labels=target).loss
    expected.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    network = Network(model)
    logits = network.logits(network.decode(inputs, network.encode(source)))
    found = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)
    found.backward()
    assert torch.allclose(found, expected, atol=1e-5)
    for name, weight in model.named_parameters():
        scale = gradients[name].abs().max()
        assert torch.allclose(weight.grad, gradients[name], atol=1e-4 * float(scale)), name


def test_in_bf16_it_is_near(published):
    world, model = published
    source, _, inputs = batch(world, torch.arange(20))
    network = Network(model)
    exact = network.logits(network.decode(inputs, network.encode(source)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = network.logits(network.decode(inputs, network.encode(source)))
    near.float().square().mean().backward()
    assert near.dtype == torch.bfloat16
    assert (near.float() - exact).abs().max() < 0.05 * exact.abs().max()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())


def test_dropout_drops_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    ones = torch.ones(1000, 1001)
    found = dropped(ones, SHARE)
    spread = math.sqrt(SHARE * (1 - SHARE) / ones.numel())
    assert abs(float((found == 0).double().mean()) - SHARE) < 5 * spread
    assert found.unique().tolist() == pytest.approx([0.0, 1 / (1 - SHARE)])
    for place in range(4):  # four draws come from one random word
        assert abs(float((found.flatten()[place::4] == 0).double().mean()) - SHARE) < 10 * spread


def test_dropout_draws_anew_each_time_and_the_same_from_the_same_seed():
    ones = torch.ones(50, 50)
    torch.manual_seed(3)
    first, second = dropped(ones, SHARE), dropped(ones, SHARE)
    torch.manual_seed(3)
    assert not torch.equal(first, second)
    assert torch.equal(dropped(ones, SHARE), first)


def test_no_dropout_changes_nothing():
    ones = torch.ones(3, 3)
    assert dropped(ones, 0.0) is ones


def test_a_dropped_feed_forward_layer_has_the_gradient_of_what_it_kept():
    torch.manual_seed(0)
    inner = torch.randn(40, 30, requires_grad=True)
    kept = _KeptReLU.apply(inner * 1, SHARE)
    kept.sum().backward()
    assert torch.equal(inner.grad, (kept > 0).float())
    assert torch.equal(kept[kept > 0], inner[kept > 0])
    assert (kept[inner <= 0] == 0).all()


def test_training_mode_alone_has_dropout(published):
    world, model = published
    source, _, _ = batch(world, torch.arange(5))
    calm = Network(model).encode(source).states
    assert torch.equal(calm, Network(model).encode(source).states)
    noisy = Network(model.train()).encode(source).states
    assert not torch.allclose(calm, noisy, atol=1e-2)


def test_dropout_has_the_mean_effect_of_transformers(published):
    """Averaged over many draws both forward passes in training mode come to the same encoder states."""
    world, model = published
    source, _, _ = batch(world, torch.arange(3))
    model.train()
    torch.manual_seed(0)
    with torch.inference_mode():
        ours = torch.stack([Network(model).encode(source).states for _ in range(300)])
        theirs = torch.stack(
            [model.encoder(input_ids=source, attention_mask=source != PAD).last_hidden_state for _ in range(300)]
        )
    error = (ours.var(0) / 300 + theirs.var(0) / 300).sqrt()
    real = (source != PAD)[..., None].expand_as(error)
    assert (((ours.mean(0) - theirs.mean(0)) / error)[real].abs() < 6).all()
    assert ours.var(0)[real].mean() == pytest.approx(float(theirs.var(0)[real].mean()), rel=0.05)
