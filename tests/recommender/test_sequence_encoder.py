"""What an encoder of sequences sees, how it ranks, and what is left of it in a folder."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from tessera.errors import CheckpointError
from tessera.recommender.corpus import histories
from tessera.recommender.lists import rank_histories
from tessera.recommender.sequence_encoder import Sizes, load_encoder, new_encoder, save_encoder, sequence_scores
from tests.recommender.test_lists import plainly_sorted
from tests.recommender.test_popularity import interactions

ITEMS = 9
SASREC = Sizes("sasrec", ITEMS, max_history=5, width=8, layers=2, heads=2, dropout=0.1)
BERT4REC = SASREC._replace(kind="bert4rec")
SHOP = {0: [1, 2, 3, 4, 5, 6, 7, 8], 1: [8, 3, 1], 2: [0, 5, 0, 2]}


@pytest.fixture(params=[SASREC, BERT4REC], ids=lambda sizes: sizes.kind)
def sizes(request):
    return request.param


def states(encoder, *rows):
    with torch.no_grad():
        return encoder.eval()(torch.tensor(rows))


def test_sasrec_sees_nothing_of_what_comes_later():
    encoder = new_encoder(SASREC, seed=0)
    one, other = states(encoder, [1, 2, 3, 4, 5], [1, 2, 3, 8, 0])
    assert torch.allclose(one[:3], other[:3], atol=1e-6)
    assert not torch.allclose(one[3], other[3], atol=1e-3)


def test_bert4rec_sees_both_sides():
    encoder = new_encoder(BERT4REC, seed=0)
    for changed in ([8, 2, 3], [1, 2, 8]):
        one, other = states(encoder, [1, 2, 3], changed)
        assert not torch.allclose(one[1], other[1], atol=1e-4)


def test_every_layer_is_drawn_for_itself(sizes):
    first, second = new_encoder(sizes._replace(layers=2), seed=0).layers.layers
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(one.ndim == 1 or not torch.equal(one, other) for one, other in pairs)


def test_order_matters(sizes):
    """The same items in another order, the last the same: without places all would be as before."""
    encoder = new_encoder(sizes._replace(layers=1), seed=0)
    torch.nn.init.normal_(encoder.places.weight, generator=torch.Generator().manual_seed(0))
    one, other = states(encoder, [1, 2, 3], [2, 1, 3])
    assert not torch.allclose(one[2], other[2], atol=1e-3)


def test_padding_changes_nothing(sizes):
    encoder = new_encoder(sizes, seed=0)
    alone = states(encoder, [1, 2, 3])[0]
    padded = states(encoder, [1, 2, 3, encoder.padding, encoder.padding])[0]
    assert torch.allclose(padded[:3], alone, atol=1e-6)


def test_the_seed_draws_the_weights_and_leaves_the_global_generator_as_it_was(sizes):
    before = torch.get_rng_state()
    first, again, other = (new_encoder(sizes, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.items.weight, again.items.weight)
    assert not torch.equal(first.items.weight, other.items.weight)


def scored_plainly(encoder, history):
    """The log-probability of each item after history, one history at a time."""
    rows = [*history, encoder.mask] if encoder.sizes.kind == "bert4rec" else history
    last = states(encoder, rows)[0, -1]
    products = [
        sum(last[d].item() * weight[d].item() for d in range(len(last))) for weight in encoder.items.weight.detach()
    ]
    return np.array(products[:ITEMS]) - np.log(np.exp(products[:ITEMS]).sum())


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("max_history", [2, 5])
def test_twin(sizes, split, max_history):
    encoder = new_encoder(sizes, seed=0)
    found = histories(interactions(SHOP), split=split, max_history=max_history)
    scores = sequence_scores(encoder, found)
    before = [items[: {"valid": -2, "test": -1}[split]][-max_history:] for items in SHOP.values()]
    assert scores == pytest.approx(np.stack([scored_plainly(encoder, history) for history in before]), abs=1e-5)
    ranked = rank_histories(partial(sequence_scores, encoder), found, items=ITEMS, length=4)
    assert ranked.items.tolist() == plainly_sorted(scores, length=4)


def test_a_folder_gives_back_what_was_saved(sizes, tmp_path):
    encoder = new_encoder(sizes, seed=0)
    save_encoder(encoder, tmp_path)
    loaded = load_encoder(tmp_path, kind=sizes.kind, items=ITEMS, max_history=5)
    assert loaded.sizes == sizes
    assert torch.equal(states(loaded, [1, 2, 3]), states(encoder, [1, 2, 3]))


@pytest.mark.parametrize(("key", "value"), [("kind", "bert4rec"), ("items", 8), ("max_history", 4)])
def test_an_encoder_for_something_else_is_refused(tmp_path, key, value):
    save_encoder(new_encoder(SASREC, seed=0), tmp_path)
    asked = {"kind": "sasrec", "items": ITEMS, "max_history": 5} | {key: value}
    with pytest.raises(CheckpointError, match=rf"config\.json: expected an encoder with .*'{key}': '?{value}.*found"):
        load_encoder(tmp_path, **asked)


def test_a_damaged_folder_is_refused(tmp_path):
    asked = {"kind": "sasrec", "items": ITEMS, "max_history": 5}
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        load_encoder(tmp_path, **asked)
    save_encoder(new_encoder(SASREC, seed=0), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SASREC._replace(width=16)._asdict()))
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: cannot be loaded"):
        load_encoder(tmp_path, **asked)
    (tmp_path / "config.json").write_text(json.dumps(asked))
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: cannot be loaded"):
        load_encoder(tmp_path, **asked)
