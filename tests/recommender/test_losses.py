import math

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from tessera.recommender.batches import Batch, Samples, samples_of
from tessera.recommender.beam import beam_search
from tessera.recommender.lists import NOTHING
from tessera.recommender.losses import (
    TrainingLosses,
    implicit_alignment,
    softmax_losses,
    symmetric_info_nce,
    token_losses,
    trie_losses,
)
from tessera.recommender.readers import reader_of
from tessera.recommender.trie import build_trie
from tessera.recommender.vocabulary import END
from tests.recommender.conftest import TINY, apart
from tests.recommender.tries import walk


def test_softmax_losses_are_the_models_own_loss_times_the_tokens(world, model):
    here = world()
    network, samples = model(here).eval(), here.samples()
    rows = torch.arange(0, 300, 17)
    source, target = samples.source.padded(rows), samples.target.padded(rows)
    expected = network(input_ids=source, attention_mask=source != 0, labels=target).loss * target.numel()
    assert torch.allclose(softmax_losses(network, source, target), expected, rtol=1e-5)


def test_padding_changes_no_loss(world, model):
    here = world()
    network, samples = model(here).eval(), here.samples()
    rows = torch.tensor([0, 200, 450])
    together = token_losses(network, samples.batch(rows))
    alone = [token_losses(network, samples.batch(row[None])) for row in rows]
    assert torch.allclose(together, torch.stack(alone).sum(), rtol=1e-5)


@pytest.mark.parametrize("constrained", [False, True])
def test_samples_that_share_a_source_lose_what_each_of_them_does(world, model, constrained):
    here = world(taught=3)
    network, samples = model(here).eval(), here.samples()
    tries = [build_trie(here.tokens[name]) for name in samples.names if constrained]
    sources = torch.arange(0, len(samples.source.lengths), 3)
    rows = samples.of(sources)
    assert (rows < 0).any()
    found = []
    for batch in (samples.batch(sources), apart(samples).batch(rows[rows >= 0])):
        network.zero_grad()
        loss = token_losses(network, batch, tries)
        loss.backward()
        found.append([loss.detach(), *(weight.grad for weight in network.parameters())])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-3)
    assert found[0][0] > 0


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


@pytest.mark.parametrize("places", [[0, 1, 2, 3], [2, 5, 6, 3]])
def test_room_for_items_that_are_absent_changes_no_alignment(world, model, places):
    here = world()
    network, ids = model(here).eval(), {name: table.long() for name, table in here.ids().items()}
    items = torch.tensor([3, 9, 20, 1])
    roomy = torch.full((8,), NOTHING)
    roomy[places] = items
    alone, among_none = (implicit_alignment(network, ids, each, temperature=0.1) for each in (items, roomy))
    torch.testing.assert_close(among_none, alone)
    found, expected = (torch.autograd.grad(each, network.shared.weight) for each in (among_none, alone))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("weight", "modalities", "is_zero"), [(0.5, 2, False), (0.0, 2, True), (0.5, 1, True)])
def test_training_losses_look_at_alignment_only_where_there_is_something_to_align(
    world, model, weight, modalities, is_zero
):
    here = world()
    ids = dict(list(here.ids().items())[:modalities])
    losses = TrainingLosses(model(here), ids, lambda_implicit=weight, temperature=0.1)
    samples, rows = here.samples(), torch.arange(20)
    _, implicit = losses(samples.batch(rows))
    assert (implicit.item() == 0) == is_zero


def test_repeated_target_items_count_once(world, model):
    here = world()
    losses = TrainingLosses(model(here), here.ids(), lambda_implicit=1.0, temperature=0.1).eval()
    batch = here.samples().batch(torch.arange(5))._replace(items=torch.tensor([1, 2, 3, 4, 5]))
    once = losses(batch)[1]
    repeated = losses(Batch(*(table[[0, 1, 2, 3, 4, 0]] for table in batch)))[1]
    assert torch.allclose(once, repeated)
    assert torch.equal(once, losses(batch, batch.items)[1])
    assert not torch.allclose(once, losses(batch, batch.items[:4])[1])


def test_what_a_teacher_named_is_not_aligned(world, model):
    losses = TrainingLosses(model(world()), world().ids(), lambda_implicit=1.0, temperature=0.1).eval()
    plain, taught = world().samples(), world(taught=3).samples()
    sources = torch.arange(0, len(plain.items), 31)
    assert len(taught.batch(sources).items) > len(sources)
    assert torch.equal(losses(taught.batch(sources))[1], losses(plain.batch(sources))[1])


def with_joined_ids(here) -> tuple[Samples, dict[str, np.ndarray]]:
    """Samples that tell text, image, or the ID that is both, which begins like that of text; and the IDs of each."""
    ids = here.tokens | {"joined": np.concatenate([here.tokens["text"], here.tokens["image"]], axis=1)}
    text = here.train.filter(task="history text -> text")
    ended = np.pad(ids["joined"][text["item"]], ((0, 0), (0, 1)), constant_values=END)
    joined = text.with_columns(
        task=pl.lit("history text -> joined"), target=pl.Series(ended.tolist(), dtype=pl.List(pl.UInt16))
    )
    return samples_of(pl.concat([here.train, joined])), ids


def step_losses(network, source, item, tokens) -> list[float]:
    """The loss of each token of an item's ID: a softmax over the tokens that some item has after the same prefix."""
    following: dict[tuple[int, ...], set[int]] = {}
    for path, _ in walk(build_trie(tokens)):
        for place, token in enumerate(path):
            following.setdefault(path[:place], set()).add(token)
    path = tuple(tokens[item].tolist())
    logits = network(input_ids=source[None], decoder_input_ids=torch.tensor([[0, *path[:-1]]])).logits[0]
    return [
        float(step[sorted(following[path[:place]])].logsumexp(0) - step[path[place]])
        for place, step in enumerate(logits)
    ]


def test_trie_losses_equal_a_softmax_over_the_children_on_every_step(world, model):
    """Tries of the first 1, 2, ... tokens give the sums of the first 1, 2, ... steps."""
    here = world(items=20)  # the last two items' IDs alone begin with 2: a state with one child
    network = model(here, sizes=TINY._replace(initializer_factor=3.0)).eval()
    samples, ids = with_joined_ids(here)
    assert samples.names == ("image", "joined", "text")
    rows = torch.arange(0, len(samples.items), 29)
    batch = samples.batch(rows)
    assert set(batch.told.tolist()) == {0, 1, 2}
    with torch.inference_mode():
        steps = [
            step_losses(
                network, samples.source.take(row[None]).values.long(), item, ids[samples.names[samples.told[row]]]
            )
            for row, item in zip(rows, batch.items, strict=True)
        ]
        assert any(loss == 0 for losses in steps for loss in losses)
        for depth in range(1, 7):
            tries = [build_trie(ids[name][:, :depth]) for name in samples.names]
            expected = torch.tensor([sum(losses[:depth]) for losses in steps])
            assert torch.allclose(trie_losses(network, batch, tries), expected.sum(), rtol=1e-4)
            alone = [trie_losses(network, samples.batch(row[None]), tries) for row in rows]
            assert torch.allclose(torch.stack(alone), expected, rtol=1e-3, atol=1e-5)


def test_trie_losses_are_what_a_renormalised_beam_search_scores_by(world, model):
    here = world(tasks=["history text -> text"])
    network, samples, trie = model(here).eval(), here.samples(), build_trie(here.tokens["text"])
    rows = torch.arange(5)
    batch = samples.batch(rows)
    found = beam_search(reader_of(network), trie, batch.source, beams=27, renormalise=True)
    scores = found.scores[found.items == batch.items[:, None]]
    losses = torch.stack([trie_losses(network, samples.batch(row[None]), [trie]) for row in rows])
    assert torch.allclose(losses, -3 * scores, rtol=1e-4)


def test_tokens_without_a_sibling_cost_nothing(world, model):
    here = world()
    tokens = here.tokens["text"][[0, 9, 18]]  # unlike in their first token, alike in the others
    target = torch.from_numpy(np.pad(tokens.astype(np.int64), ((0, 0), (0, 1)), constant_values=END))
    batch = Batch(here.samples().batch(torch.arange(3)).source, target, torch.arange(3), torch.zeros(3))
    network = model(here).eval()
    whole = trie_losses(network, batch, [build_trie(tokens)])
    assert torch.equal(whole, trie_losses(network, batch, [build_trie(tokens[:, :1])]))
    assert whole > 0
    assert not trie_losses(network, batch._replace(items=torch.zeros(3, dtype=torch.long)), [build_trie(tokens[:1])])


def test_trie_losses_have_a_finite_gradient_in_bf16_too(world, model):
    here = world(items=20)
    samples, ids = with_joined_ids(here)
    tries, batch = [build_trie(ids[name]) for name in samples.names], samples.batch(torch.arange(0, 900, 13))
    losses = []
    for enabled in (False, True):
        network = model(here).eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(trie_losses(network, batch, tries))
        losses[-1].backward()
        gradients = [weights.grad for weights in network.parameters()]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)
    assert losses[0].dtype == losses[1].dtype == torch.float32
    assert torch.allclose(*losses, rtol=0.01)


def test_without_tries_the_loss_is_the_softmax_over_the_vocabulary(world, model):
    here = world()
    network, batch = model(here).eval(), here.samples().batch(torch.arange(0, 300, 17))
    told, _ = TrainingLosses(network, here.ids(), lambda_implicit=0.0, temperature=0.1)(batch)
    assert torch.equal(told, softmax_losses(network, batch.source, batch.target))
    tries = [build_trie(here.tokens[name]) for name in here.samples().names]
    constrained, _ = TrainingLosses(network, here.ids(), lambda_implicit=0.0, temperature=0.1, tries=tries)(batch)
    assert constrained < told


@pytest.mark.parametrize("modalities", [[], ["text"]])
def test_there_is_no_implicit_alignment_without_two_modalities(world, model, modalities):
    """IDs of fused vectors are no modality's: nothing is there to align, whatever the weight."""
    here = world()
    ids = {modality: here.ids()[modality] for modality in modalities}
    losses = TrainingLosses(model(here).eval(), ids, lambda_implicit=0.5, temperature=0.1)
    _, implicit = losses(here.samples().batch(torch.arange(8)))
    assert float(implicit) == 0
