"""Beam search against its slow twins: scoring every item, and `transformers` with a prefix function."""

import numpy as np
import pytest
import torch

from tessera.recommender.beam import beam_search
from tessera.recommender.trie import build_trie
from tests.recommender.conftest import FILLING
from tests.recommender.teacher_forcing import NUMERIC, USERS, scores_of_all_items, sources
from tests.recommender.tries import walk


@pytest.mark.parametrize("renormalise", [False, True])
def test_with_enough_beams_it_equals_scoring_every_item(world, model, renormalise, reader):
    here = world()
    network, source, tokens = model(here, sizes=FILLING).eval(), sources(here), here.tokens["text"]
    trie = build_trie(tokens)
    found = beam_search(reader(network), trie, source, beams=len(tokens), renormalise=renormalise)
    expected = scores_of_all_items(network, source, tokens, trie, renormalise=renormalise)
    assert torch.allclose(found.scores, expected.sort(dim=1, descending=True).values, atol=NUMERIC)
    assert torch.allclose(expected.gather(1, found.items), found.scores, atol=NUMERIC)
    assert torch.equal(found.items.sort(dim=1).values, torch.arange(len(tokens)).expand(USERS, -1))


def test_with_few_beams_it_equals_generate_with_a_prefix_function(world, model, reader):
    here = world()
    network, source, tokens = model(here, sizes=FILLING).eval(), sources(here), here.tokens["text"]
    trie, beams = build_trie(tokens), 4
    items, after = {}, {}
    for path, (item,) in walk(trie):
        items[path] = item
        for depth, token in enumerate(path):
            after.setdefault(path[:depth], []).append(token)
    generated = network.generate(
        input_ids=source,
        attention_mask=(source != 0).long(),
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=tokens.shape[1],
        prefix_allowed_tokens_fn=lambda _, prefix: after.get(tuple(prefix.tolist()[1:]), [1]),
        output_scores=True,
        return_dict_in_generate=True,
        length_penalty=1.0,
        early_stopping=True,
        do_sample=False,
        use_cache=False,  # its cache has as many layers as the encoder, and this decoder has more
    )
    expected = [
        [items[tuple(path)] for path in user] for user in generated.sequences[:, 1:].view(USERS, beams, -1).tolist()
    ]
    found = beam_search(reader(network), trie, source, beams=beams, renormalise=False)
    assert found.items.tolist() == expected
    assert torch.allclose(found.scores.flatten(), generated.sequences_scores, atol=1e-4)


def test_only_valid_items_and_each_once(world, model, reader):
    here = world(items=11)
    found = beam_search(
        reader(model(here, sizes=FILLING).eval()),
        build_trie(here.tokens["text"]),
        sources(here),
        beams=7,
        renormalise=True,
    )
    assert all(len(set(row)) == 7 and max(row) < 11 and min(row) >= 0 for row in found.items.tolist())


def test_fewer_items_than_beams_give_fewer_results(world, model, reader):
    here = world(items=5)
    found = beam_search(
        reader(model(here, sizes=FILLING).eval()),
        build_trie(here.tokens["text"]),
        sources(here),
        beams=9,
        renormalise=False,
    )
    assert found.items.shape == (USERS, 9)
    assert (found.items[:, 5:] == -1).all()
    assert (found.scores[:, 5:] == float("-inf")).all()
    assert (found.items[:, :5] >= 0).all()


def test_more_beams_never_make_the_best_worse(world, model, reader):
    here = world()
    network, trie, source = model(here, sizes=FILLING).eval(), build_trie(here.tokens["text"]), sources(here)
    best = [beam_search(reader(network), trie, source, beams=k, renormalise=False).scores[:, 0] for k in (1, 3, 27)]
    assert (best[1] >= best[0] - NUMERIC).all()
    assert (best[2] >= best[1] - NUMERIC).all()


def test_a_users_result_does_not_depend_on_the_batch(world, model, reader):
    here = world()
    network, trie, source = model(here, sizes=FILLING).eval(), build_trie(here.tokens["text"]), sources(here)
    together = beam_search(reader(network), trie, source, beams=6, renormalise=True)
    for user in range(USERS):
        row = source[user : user + 1]
        alone = beam_search(reader(network), trie, row[:, row[0] != 0], beams=6, renormalise=True)
        assert torch.equal(alone.items[0], together.items[user])
        assert torch.allclose(alone.scores[0], together.scores[user], atol=NUMERIC)


def test_items_that_share_an_id_share_its_score_in_ascending_order(world, model, reader):
    here = world(items=6)
    shared = here.tokens["text"][[2, 0, 0, 1, 2, 0]]
    found = beam_search(
        reader(model(here, sizes=FILLING).eval()), build_trie(shared), sources(here), beams=6, renormalise=True
    )
    for items, scores in zip(found.items.tolist(), found.scores.tolist(), strict=True):
        assert sorted(items) == list(range(6))
        group = [item for item in items if item in (1, 2, 5)]
        assert group == [1, 2, 5]
        assert len({scores[items.index(item)] for item in group}) == 1


@pytest.mark.parametrize("distinct", [True, False])
def test_seen_items_are_left_out_and_nothing_else(world, model, distinct, reader):
    here = world(items=8)
    tokens = here.tokens["text"] if distinct else here.tokens["text"][[0, 0, 1, 2, 3, 4, 5, 6]]
    network, trie, source = model(here, sizes=FILLING).eval(), build_trie(tokens), sources(here)
    seen = torch.tensor([[0, 3, -1], [-1, -1, -1], [7, 1, 2], [5, -1, -1], [4, 4, -1]])
    everything = beam_search(reader(network), trie, source, beams=8, renormalise=False)
    found = beam_search(reader(network), trie, source, beams=8, renormalise=False, seen=seen)
    for user in range(USERS):
        left = [item for item in everything.items[user].tolist() if item not in seen[user].tolist()]
        assert [item for item in found.items[user].tolist() if item >= 0] == left


def test_seen_items_take_no_beam_from_others(world, model, reader):
    """Most codes lead to one item only: a beam that went there for a seen item would end in nothing."""
    here = world(users=20, items=27)
    rng = np.random.default_rng(0)
    tokens = here.tokens["text"][rng.permutation(27)[:16]]
    network, trie, source = model(here, sizes=FILLING).eval(), build_trie(tokens), sources(here)
    everything = beam_search(reader(network), trie, source, beams=16, renormalise=False)
    seen = everything.items[:, :6]
    found = beam_search(reader(network), trie, source, beams=5, renormalise=False, seen=seen)
    assert (found.items >= 0).all()
    for user in range(USERS):
        assert not set(found.items[user].tolist()) & set(seen[user].tolist())
    with_all = beam_search(reader(network), trie, source, beams=16, renormalise=False, seen=seen)
    assert with_all.items[:, :10].tolist() == everything.items[:, 6:].tolist()
    assert (with_all.items[:, 10:] == -1).all()


def test_renormalising_makes_the_scores_of_all_items_a_distribution(world, model, reader):
    here = world()
    trie = build_trie(here.tokens["text"])
    found = beam_search(reader(model(here, sizes=FILLING).eval()), trie, sources(here), beams=27, renormalise=True)
    assert torch.allclose((found.scores * 3).exp().sum(1), torch.ones(USERS), atol=1e-4)
