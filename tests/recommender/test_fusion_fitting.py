import numpy as np
import polars as pl
import pytest

from tessera.errors import DataError
from tessera.recommender import fusion_fitting
from tessera.recommender.fusion import Weight, fuse
from tessera.recommender.fusion_fitting import PENALTY, learn_weights
from tessera.schemas import RANKINGS

TRUE = {"image": Weight(0.5, 1.0), "text": Weight(1.5, -0.5)}


def learned_of(rankings, targets):
    return learn_weights(rankings.lazy(), targets)


def shop(users, *, length=8, items=30, seed=0):
    """Lists of both modalities, and targets drawn from what TRUE makes of them."""
    generator = np.random.default_rng(seed)
    rows = []
    for name in TRUE:
        for user in range(users):
            chosen = generator.permutation(items)[:length]
            scores = -np.sort(generator.gamma(1.0, size=length))
            rows += [("valid", user, name, place + 1, chosen[place], scores[place]) for place in range(length)]
    rankings = pl.DataFrame(rows, schema=RANKINGS, orient="row")
    targets = []
    for user, share in enumerate(shares(rankings, TRUE)):
        targets.append((user, generator.choice(list(share), p=list(share.values()))))
    return rankings, pl.DataFrame(targets, schema={"user": pl.UInt32, "item": pl.UInt32}, orient="row")


def shares(rankings, weights):
    """The twin: each user's items with their shares, one user, item and list at a time."""
    everyone = []
    for _, mine in sorted(rankings.partition_by("user", as_dict=True).items()):
        sums = {}
        for name, weight in weights.items():
            entries = mine.filter(modality=name).select("item", "score").rows()
            lowest = min((score for _, score in entries), default=0.0)
            for item, score in entries:
                sums[item] = sums.get(item, 0.0) + weight.score * (score - lowest) + weight.held
        whole = sum(map(np.exp, sums.values()))
        everyone.append({item: np.exp(each) / whole for item, each in sums.items()})
    return everyone


def loss(rankings, targets, weights):
    found = [
        -np.log(share[item])
        for share, item in zip(shares(rankings, weights), targets["item"], strict=True)
        if item in share
    ]
    return np.mean(found) + PENALTY * sum(value**2 for weight in weights.values() for value in weight)


def test_weights_that_targets_were_drawn_by_are_found_again():
    learned = learned_of(*shop(6000))
    assert list(learned) == ["image", "text"]
    for name, weight in TRUE.items():
        assert learned[name].score == pytest.approx(weight.score, abs=0.1)
    # What is held by one list alone tells the two apart; a constant for both is in neither.
    assert learned["image"].held - learned["text"].held == pytest.approx(1.5, abs=0.15)


@pytest.mark.parametrize("name", TRUE)
@pytest.mark.parametrize("step", [Weight(0.05, 0.0), Weight(-0.05, 0.0), Weight(0.0, 0.05), Weight(0.0, -0.05)])
def test_no_weights_near_have_a_smaller_loss(name, step):
    rankings, targets = shop(60)
    learned = learned_of(rankings, targets)
    near = learned | {name: Weight(*(np.array(learned[name]) + step))}
    assert loss(rankings, targets, learned) < loss(rankings, targets, near)


def test_users_whose_target_no_list_holds_tell_nothing():
    rankings, targets = shop(60)
    others, _ = shop(80, seed=1)
    more = pl.concat([rankings, others.filter(pl.col("user") >= 60)])
    strangers = pl.DataFrame({"user": range(60, 80), "item": [99] * 20}, schema=targets.schema)
    assert learned_of(more, pl.concat([targets, strangers])) == learned_of(rankings, targets)


def test_a_list_is_never_read_backwards():
    """The better the text's score, the less likely the item: its scores then weigh nothing."""
    rankings, _ = shop(60)
    targets = rankings.filter(modality="text", rank=8).select("user", "item")
    learned = learned_of(rankings, targets)
    assert learned["text"].score == 0
    fused = fuse(rankings, rule="learned", cut=8, weights=learned)
    assert fused.height == 60 * 8


def test_a_single_ranking_is_as_it_is():
    rankings, targets = shop(5)
    assert learned_of(rankings.filter(modality="text"), targets) == {"text": Weight(1.0, 0.0)}
    assert learned_of(rankings.clear(), targets) == {}


def test_nothing_found_is_an_error():
    rankings, targets = shop(5)
    with pytest.raises(DataError, match="expected validation targets among what the rankings hold"):
        learned_of(rankings, targets.with_columns(item=pl.lit(99, pl.UInt32)))


def test_of_very_many_users_some_are_looked_at_at_even_distances(monkeypatch):
    rankings, targets = shop(41)
    monkeypatch.setattr(fusion_fitting, "USERS", 5)
    some = rankings.filter(pl.col("user").is_in([0, 10, 20, 30, 40]))
    assert learned_of(rankings, targets) == learned_of(some, targets)
