"""What an encoder of sequences is trained on, and that it learns what there is to learn."""

from functools import partial

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import CheckpointError, DataError
from tessera.recommender.corpus import histories
from tessera.recommender.lists import rank_histories
from tessera.recommender.sequence_encoder import Sizes, new_encoder, sequence_scores
from tessera.recommender.sequence_fitting import Settings, fit, questions, training_windows
from tests.recommender.conftest import circle_interactions
from tests.recommender.test_popularity import interactions

ITEMS = 12
SIZES = Sizes("sasrec", ITEMS, max_history=5, width=16, layers=1, heads=2, dropout=0.1)
SETTINGS = Settings(mask=0.3, epochs=3, batch_size=16, lr=0.01, weight_decay=0.0, patience=0)
KINDS = ("sasrec", "bert4rec")


def trained(shop, *, kind="sasrec", valid=None, seed=0, **changes):
    encoder = new_encoder(SIZES._replace(kind=kind), seed=0)
    return fit(encoder, shop, settings=SETTINGS._replace(**changes), valid=valid, seed=seed)


def weights(fitted):
    return {name: tensor.clone() for name, tensor in fitted.encoder.state_dict().items()}


def are_equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_windows_by_hand():
    shop = interactions({0: [*range(7), 0, 0], 1: [4, 0, 0], 2: [5, 6, 0, 0]})
    rows = training_windows(shop, max_history=3)
    assert [each.tolist() for each in rows.values.split(rows.lengths.tolist())] == [[3, 4, 5, 6], [0, 1, 2, 3], [5, 6]]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5).filter(lambda all_: max(all_) > 1), st.integers(1, 6))
def test_every_item_but_the_first_is_told_once(lengths, max_history):
    starts = [sum(lengths[:user]) for user in range(len(lengths))]
    sequences = {user: list(range(starts[user], starts[user] + lengths[user])) for user in range(len(lengths))}
    shop = interactions({user: [*items, 0, 0] for user, items in sequences.items()})
    rows = training_windows(shop, max_history=max_history)
    pieces = [each.tolist() for each in rows.values.split(rows.lengths.tolist())]
    assert all(len(piece) <= max_history + 1 for piece in pieces)
    told = sorted(item for piece in pieces for item in piece[1:])
    assert told == [item for items in sequences.values() for item in items[1:]]


def test_no_sequence_of_two_is_refused():
    with pytest.raises(DataError, match="training sequences: expected at least one of two items, found none"):
        training_windows(interactions({0: [4, 0, 0]}), max_history=3)


def test_questions_of_sasrec_by_hand():
    encoder = new_encoder(SIZES, seed=0)
    rows = torch.tensor([[3, 4, 5, 6], [7, 8, encoder.padding, encoder.padding]])
    found = questions(encoder, rows, mask=0.5, generator=torch.Generator())
    assert found.rows.tolist() == rows[:, :3].tolist()
    assert found.asked.tolist() == [[True] * 3, [True, False, False]]
    assert found.answers.tolist() == [4, 5, 6, 8]


@pytest.mark.parametrize("mask", [0.0, 0.4, 1.0])
def test_bert4rec_never_reads_an_answer_and_always_has_one(mask):
    encoder = new_encoder(SIZES._replace(kind="bert4rec"), seed=0)
    lengths = torch.arange(2, 7).repeat(200)
    rows = torch.randint(0, ITEMS, (1000, 6)).masked_fill(torch.arange(6) >= lengths[:, None], encoder.padding)
    found = questions(encoder, rows, mask=mask, generator=torch.Generator().manual_seed(0))
    assert (found.rows[found.asked] == encoder.mask).all()
    assert torch.equal(found.rows[~found.asked], rows[~found.asked])
    assert torch.equal(found.answers, rows[found.asked])
    assert (found.answers < ITEMS).all()
    counts = found.asked.sum(dim=1)
    last_alone = (counts == 1) & found.asked[torch.arange(1000), lengths - 1]
    assert counts.min() == 1
    if mask == 0.4:
        assert 0.4 < last_alone.double().mean() < 0.7
        assert counts.max() > 3
    else:
        assert last_alone.all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_pattern_is_learned(kind):
    """Everyone goes round the circle one step at a time: what comes next is certain."""
    shop = interactions({user: [(user + step) % ITEMS for step in range(8)] for user in range(48)})
    fitted = trained(shop, kind=kind, epochs=100, lr=0.003)
    found = histories(shop, split="test", max_history=5)
    ranked = rank_histories(partial(sequence_scores, fitted.encoder), found, items=ITEMS, length=1)
    assert ranked.items[:, 0].tolist() == found.target_items.tolist()
    losses = fitted.history["loss"].to_list()
    assert losses[-1] < losses[0] / 2


SHOP = circle_interactions(users=20, items=ITEMS, length=7, seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_validation_and_test_items_change_nothing(kind):
    turned = pl.when(pl.col("split") == "train").then("item").otherwise((pl.col("item") + 5) % ITEMS)
    other = SHOP.with_columns(item=turned.cast(pl.UInt32))
    assert not other.equals(SHOP)
    assert are_equal(weights(trained(SHOP, kind=kind)), weights(trained(other, kind=kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_and_the_global_generator_does_not(kind):
    first = weights(trained(SHOP, kind=kind))
    torch.rand(7)
    assert are_equal(first, weights(trained(SHOP, kind=kind)))
    assert not are_equal(first, weights(trained(SHOP, kind=kind, seed=1)))


def test_patience_ends_the_training_and_keeps_the_best():
    valid = histories(SHOP, split="valid", max_history=5)
    fitted = trained(SHOP, valid=valid, epochs=50, lr=1e-9, patience=2)
    assert fitted.history["epoch"].to_list() == [1, 2, 3]
    assert fitted.history["valid_ndcg@10"].n_unique() == 1
    usual = trained(SHOP, valid=valid, epochs=12, patience=12)
    gains = usual.history["valid_ndcg@10"].to_list()
    best = trained(SHOP, epochs=gains.index(max(gains)) + 1)
    assert are_equal(weights(usual), weights(best))


def test_weights_that_are_no_numbers_are_an_error(monkeypatch):
    """The last step of all can break what its loss did not tell of."""

    def epoch(encoder, *_, **__):
        encoder.items.weight.data[1, 0] = torch.inf
        return 1.0

    monkeypatch.setattr("tessera.recommender.sequence_fitting._epoch", epoch)
    with pytest.raises(CheckpointError, match=r"expected finite weights, found others; a lower sequence\.lr may"):
        trained(SHOP)


def test_a_loss_that_is_no_number_is_an_error():
    with pytest.raises(CheckpointError, match=r"expected a finite loss, found nan; a lower sequence\.lr may"):
        trained(SHOP, lr=1e30)
