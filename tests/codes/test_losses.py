"""Every term of L_ID against the formula written as loops."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.codes import losses
from tessera.codes.losses import (
    ABSENT,
    SHORTEST,
    Known,
    Neighbours,
    alignment_loss,
    collaborative_loss,
    contrast_loss,
    diversity_loss,
    identifier_loss,
    info_nce,
    narrow_factors,
    positives,
    reconstruction_loss,
)
from tessera.codes.quantizer import CrossModalQuantizer, initialise_layers

ITEMS = 24


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_info_nce(logits, targets, anchors, candidates):
    losses = []
    for row in range(len(logits)):
        if anchors[row]:
            among = [float(logits[row, column]) for column in range(len(logits)) if candidates[column]]
            losses.append(-float(logits[row, targets[row]]) + math.log(sum(math.exp(value) for value in among)))
    return sum(losses) / len(losses) if losses else 0.0


def slow_similarity(a, b, objective):
    if objective.similarity == "cosine":
        return float(a @ b / (a.norm() * b.norm())) / objective.temperature
    return float(a @ b) / objective.temperature


def slow_logits(one, other, objective):
    return torch.tensor([[slow_similarity(a, b, objective) for b in other] for a in one])


def test_reconstruction_loss_sums_over_features_and_averages_over_items():
    assert float(reconstruction_loss(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2))) == 2.5


def test_positives_by_hand():
    # A draw of 0 takes the next of the label's items, round the end; a draw just below 1 takes the one before.
    labels = torch.tensor([7, 3, 7, 7, ABSENT, ABSENT])
    assert positives(labels, torch.zeros(6)).tolist() == [2, 1, 3, 0, 4, 5]
    assert positives(labels, torch.full((6,), 0.999)).tolist() == [3, 1, 0, 2, 4, 5]


def test_a_draw_that_rounds_up_to_one_chooses_another_item():
    labels = torch.zeros(5, dtype=torch.int64)
    assert positives(labels, torch.ones(5)).tolist() == [4, 0, 1, 2, 3]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(ABSENT, 4), min_size=1, max_size=30), st.integers(0, 2**31))
def test_positives_equal_a_loop(values, seed):
    draws = torch.rand(len(values), generator=torch.Generator().manual_seed(seed))
    chosen = positives(torch.tensor(values), draws).tolist()
    for item, label in enumerate(values):
        group = [other for other, value in enumerate(values) if value == label]
        if label == ABSENT or len(group) == 1:
            assert chosen[item] == item
        else:
            step = 1 + int(float(draws[item] * (len(group) - 1)))
            assert chosen[item] == group[(group.index(item) + step) % len(group)]


def test_every_other_item_is_equally_likely():
    labels = torch.tensor([1, 0, 1, 1, 1, 0])
    generator = torch.Generator().manual_seed(0)
    rounds = 3000
    chosen = torch.stack([positives(labels, torch.rand(6, generator=generator)) for _ in range(rounds)])
    shares = torch.bincount(chosen[:, 2], minlength=6) / rounds
    assert shares[[1, 2, 5]].tolist() == [0, 0, 0]
    assert shares[[0, 3, 4]].sub(1 / 3).abs().max() < 0.03


@pytest.mark.parametrize("similarity", ["cosine", "inner"])
def test_similarities_equal_loops(objective, similarity):
    chosen = objective(similarity=similarity, temperature=0.3)
    one, other = random(5, 3), random(5, 3, seed=1)
    candidates = torch.tensor([True, True, False, True, True])
    rows, columns = narrow_factors(one, other, candidates=candidates, similarity=similarity, temperature=0.3)
    found = rows @ columns.T
    expected = slow_logits(one, other, chosen)
    torch.testing.assert_close(found[:, candidates], expected[:, candidates], rtol=1e-4, atol=1e-5)
    assert (found[:, 2] < -1e29).all()


def test_a_vector_without_direction_has_a_bounded_gradient():
    still = torch.zeros(2, 3, requires_grad=True)
    everyone = torch.ones(2, dtype=torch.bool)
    rows, _ = narrow_factors(still, torch.ones(2, 3), candidates=everyone, similarity="cosine", temperature=1.0)
    rows.sum().backward()
    assert still.grad.abs().max() <= 2 / SHORTEST


def plain_info_nce(rows, columns, targets, anchors):
    losses = torch.nn.functional.cross_entropy(rows @ columns.T, targets, reduction="none")
    return losses[anchors].sum() / max(1, int(anchors.sum()))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(0, 2**31), st.integers(1, 40))
def test_info_nce_and_its_gradients_equal_loops_whatever_the_blocks(items, seed, block):
    draw = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(items, 4, generator=draw).requires_grad_() for _ in range(2))
    candidates = torch.rand(items, generator=draw) < 0.8
    anchors = candidates & (torch.rand(items, generator=draw) < 0.7)
    possible = candidates.nonzero().flatten()
    targets = torch.arange(items)
    if len(possible):
        targets = possible[torch.randint(len(possible), (items,), generator=draw)]
    rows, columns = narrow_factors(one, other, candidates=candidates, similarity="inner", temperature=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "LOGITS", block)
        found = info_nce(rows, columns, targets, anchors=anchors)
    expected = slow_info_nce((one @ other.T).detach(), targets, anchors, candidates)
    assert float(found.detach()) == pytest.approx(expected, abs=1e-5)
    gradients = torch.autograd.grad(3 * found, (one, other), retain_graph=True)
    known = torch.autograd.grad(3 * plain_info_nce(rows, columns, targets, anchors), (one, other))
    for gradient, its_twin in zip(gradients, known, strict=True):
        torch.testing.assert_close(gradient, its_twin, atol=1e-5, rtol=1e-5)


def test_info_nce_by_hand():
    # Two items that tell nothing apart: log 2 each.
    everyone = torch.ones(2, dtype=torch.bool)
    found = info_nce(torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([1, 0]), anchors=everyone)
    assert float(found) == pytest.approx(math.log(2))


def test_a_positive_that_is_all_but_impossible_has_a_finite_loss():
    found = info_nce(
        torch.tensor([[500.0], [0.0]]),
        torch.tensor([[1.0], [0.0]]),
        torch.tensor([1, 0]),
        anchors=torch.tensor([True, False]),
    )
    assert float(found) == 500


def test_without_anchors_or_candidates_the_loss_is_zero_and_so_are_gradients():
    one = random(3, 4).requires_grad_()
    nobody = torch.zeros(3, dtype=torch.bool)
    rows, columns = narrow_factors(one, one, candidates=nobody, similarity="cosine", temperature=0.1)
    loss = info_nce(rows, columns, torch.arange(3), anchors=nobody)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not one.grad.any()


def test_contrast_loss_equals_loops_at_each_level(objective):
    residuals = random(2, ITEMS, 3)
    targets = positives(torch.arange(ITEMS) % 5, torch.rand(ITEMS, generator=torch.Generator().manual_seed(0)))
    anchors, candidates = torch.arange(ITEMS) % 4 > 0, torch.ones(ITEMS, dtype=torch.bool)
    found = contrast_loss(residuals, targets, anchors=anchors, candidates=candidates, objective=objective())
    for level in range(2):
        logits = slow_logits(residuals[level], residuals[level], objective())
        assert float(found[level]) == pytest.approx(slow_info_nce(logits, targets, anchors, candidates), rel=1e-4)


def test_alignment_loss_equals_loops_both_ways_and_is_symmetric(objective):
    one, other = random(ITEMS, 3), random(ITEMS, 3, seed=1)
    has_one, has_other = torch.arange(ITEMS) % 5 > 0, torch.arange(ITEMS) % 7 > 0
    found = alignment_loss(one, other, has_one=has_one, has_other=has_other, objective=objective())
    logits, own = slow_logits(one, other, objective()), torch.arange(ITEMS)
    expected = slow_info_nce(logits, own, has_one & has_other, has_other)
    expected += slow_info_nce(logits.T, own, has_one & has_other, has_one)
    assert float(found) == pytest.approx(expected, rel=1e-4)
    mirrored = alignment_loss(other, one, has_one=has_other, has_other=has_one, objective=objective())
    assert float(found) == pytest.approx(float(mirrored), rel=1e-6)


def plain(objective, **changes):
    """An objective with inner products as they are, as LETTER has them."""
    return objective(similarity="inner", temperature=1.0, **changes)


def test_collaborative_loss_by_hand(objective):
    # Item 0 meets its own vector at 2, the other's at 0; item 1 is not known: no anchor, no key.
    known = Known(torch.tensor([[2.0], [9.0], [0.0]]), torch.tensor([True, False, True]))
    summed, present = torch.tensor([[1.0], [1.0], [5.0]]), torch.tensor([True, True, False])
    found = collaborative_loss(summed, known, present=present, objective=plain(objective))
    assert float(found) == pytest.approx(-2 + math.log(math.exp(2) + math.exp(0)))


@pytest.mark.parametrize("similarity", ["cosine", "inner"])
def test_collaborative_loss_equals_loops(objective, similarity):
    chosen = objective(similarity=similarity, temperature=0.5)
    summed, known = random(ITEMS, 3), Known(random(ITEMS, 3, seed=1), torch.arange(ITEMS) % 5 > 0)
    present = torch.arange(ITEMS) % 7 > 0
    found = collaborative_loss(summed, known, present=present, objective=chosen)
    logits = slow_logits(summed, known.vectors, chosen)
    expected = slow_info_nce(logits, torch.arange(ITEMS), present & known.present, known.present)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_diversity_loss_by_hand(objective):
    # Codes 0 and 1 are a cluster, code 2 is alone: its item counts for nothing. From code 0, 1 is at 2 and 2 at 3.
    near = Neighbours(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[1, 0, 2]]))
    expected = -2 + math.log(math.exp(2) + math.exp(3))
    for codes in ([[0]], [[0], [2]], [[0], [0]]):
        found = diversity_loss(torch.tensor(codes), near, objective=plain(objective))
        assert found.tolist() == pytest.approx([expected])
    assert diversity_loss(torch.tensor([[2]]), near, objective=plain(objective)).tolist() == [0]


@pytest.mark.parametrize("similarity", ["cosine", "inner"])
def test_diversity_loss_equals_loops(objective, similarity):
    chosen = objective(similarity=similarity, temperature=0.5)
    generator = torch.Generator().manual_seed(0)
    codebooks, codes = random(2, 8, 3), torch.randint(8, (ITEMS, 2), generator=generator)
    targets = torch.stack([positives(torch.arange(8) % 3, torch.rand(8, generator=generator)) for _ in range(2)])
    found = diversity_loss(codes, Neighbours(codebooks, targets), objective=chosen)
    for level in range(2):
        logits = slow_logits(codebooks[level], codebooks[level], chosen)
        losses = []
        for code in codes[:, level].tolist():
            others = sum(math.exp(float(logits[code, other])) for other in range(8) if other != code)
            losses.append(-float(logits[code, targets[level, code]]) + math.log(others))
        assert float(found[level]) == pytest.approx(sum(losses) / ITEMS, rel=1e-4)


class Given:
    """A quantised batch, its labels and its draws."""

    def __init__(self, shop, *, modalities, absent=0):
        self.shop = shop(modalities, items=ITEMS, absent=absent, clusters=3)
        generator = torch.Generator().manual_seed(0)
        quantizer = CrossModalQuantizer(self.shop.architecture())
        initialise_layers(quantizer, generator=generator)
        for part in quantizer.parts:
            torch.nn.init.normal_(part.codebooks, generator=generator)
        with torch.no_grad():
            self.quantized = quantizer(self.shop.vectors)
        self.draws = {pair: torch.rand(ITEMS, generator=generator) for pair in permutations(modalities, 2)}

    def losses(self, objective, **given):
        return identifier_loss(self.quantized, self.shop.labels, self.draws, objective=objective, **given)


@pytest.mark.parametrize("modalities", [("text",), ("text", "image"), ("text", "image", "sound")])
def test_the_whole_loss_equals_loops(shop, objective, modalities):
    chosen = objective(lambda_con=0.7, lambda_align=0.3, con_start_level=1)
    batch = Given(shop, modalities=modalities, absent=5 if len(modalities) > 1 else 0)
    labels = batch.shop.labels
    expected = 0.0
    for quantized in batch.quantized.values():
        for level in range(3):
            gaps = (quantized.residuals[level] - quantized.code_vectors[level]).square().sum(1)
            expected += 1.25 * float(gaps.mean())
        expected += float((quantized.scaled - quantized.reconstruction).square().sum(1).mean())
    for one, other in permutations(modalities, 2):
        has, has_other = labels[one] != ABSENT, labels[other] != ABSENT
        targets = positives(torch.where(has, labels[other], ABSENT), batch.draws[one, other])
        for level in (1, 2):
            residuals = batch.quantized[one].residuals[level]
            logits = slow_logits(residuals, residuals, chosen)
            expected += 0.7 * slow_info_nce(logits, targets, has & has_other, has)
        # Each unordered pair comes twice here, and has two directions: one each time.
        logits = slow_logits(batch.quantized[one].summed, batch.quantized[other].summed, chosen)
        expected += 0.3 * slow_info_nce(logits, torch.arange(ITEMS), has & has_other, has_other)
    assert float(batch.losses(chosen).total) == pytest.approx(expected, rel=1e-4)


def test_terms_name_every_part_and_add_up(shop, objective):
    chosen = objective(lambda_con=0.5, lambda_align=0.25, con_start_level=2)
    terms = Given(shop, modalities=("text", "image")).losses(chosen).terms
    assert set(terms) == {
        *("total", "rq", "recon", "con", "align", "recon_text", "recon_image", "align_text_image"),
        *(f"rq_{modality}_{level}" for modality in ("text", "image") for level in range(3)),
        *("con_text_by_image_2", "con_image_by_text_2", "positives_text_by_image", "positives_image_by_text"),
    }
    assert float(terms["con"]) == pytest.approx(float(terms["con_text_by_image_2"] + terms["con_image_by_text_2"]))
    weighted = terms["rq"] + terms["recon"] + 0.5 * terms["con"] + 0.25 * terms["align"]
    assert float(terms["total"]) == pytest.approx(float(weighted))


def test_most_anchors_find_a_positive(shop, objective):
    terms = Given(shop, modalities=("text", "image")).losses(objective()).terms
    assert float(terms["positives_text_by_image"]) > 0.9
    assert float(terms["positives_image_by_text"]) > 0.9


def test_positives_are_paired_by_the_labels_of_the_other_modality(shop, objective):
    batch = Given(shop, modalities=("text", "image"))
    batch.shop.labels["image"] = torch.arange(ITEMS)  # nobody shares an image label: text anchors find nobody
    terms = batch.losses(objective()).terms
    assert float(terms["positives_text_by_image"]) == 0
    assert float(terms["positives_image_by_text"]) > 0.9


def test_the_regularisers_of_letter_are_terms_by_modality_and_level(shop, objective):
    batch = Given(shop, modalities=("text", "image"))
    chosen = objective(lambda_cf=0.5, lambda_diversity=0.25)
    known = Known(random(ITEMS, 4), torch.ones(ITEMS, dtype=torch.bool))
    near = {m: Neighbours(random(3, 8, 4), torch.arange(7, -1, -1).expand(3, 8)) for m in ("text", "image")}
    without = batch.losses(chosen).terms
    terms = batch.losses(chosen, known=known, neighbours=near).terms
    levels = {f"diversity_{modality}_{level}" for modality in near for level in range(3)}
    assert set(terms) - set(without) == {"cf", "cf_text", "cf_image", "diversity", *levels}
    assert float(terms["cf"]) == pytest.approx(float(terms["cf_text"] + terms["cf_image"]))
    assert float(terms["diversity"]) == pytest.approx(sum(float(terms[name]) for name in levels), rel=1e-5)
    widths = batch.shop.architecture().widths
    assert len(set(widths.values())) == 2
    added = sum(
        width * (0.5 * terms[f"cf_{m}"] + 0.25 * sum(terms[f"diversity_{m}_{level}"] for level in range(3)))
        for m, width in widths.items()
    )
    assert float(terms["total"]) == pytest.approx(float(without["total"] + added), rel=1e-5)


def test_what_the_regularisers_of_letter_move(shop, objective):
    """L_Div moves codebooks only, L_CF the encoder only."""
    given = shop(("text",), items=ITEMS)
    quantizer = CrossModalQuantizer(given.architecture())
    initialise_layers(quantizer, generator=torch.Generator().manual_seed(0))
    part = quantizer.of("text")
    torch.nn.init.normal_(part.codebooks, generator=torch.Generator().manual_seed(1))
    everyone = torch.ones(ITEMS, dtype=torch.bool)

    def moved(loss_of):
        quantizer.zero_grad()
        loss_of(part(given.vectors["text"])).backward()
        return {name for name, weight in part.named_parameters() if weight.grad is not None and weight.grad.any()}

    near = Neighbours(part.codebooks, torch.arange(7, -1, -1).expand(3, 8))
    known = Known(random(ITEMS, 4), everyone)
    assert moved(lambda q: diversity_loss(q.codes, near, objective=objective()).sum()) == {"codebooks"}
    cf = moved(lambda q: collaborative_loss(q.summed, known, present=everyone, objective=objective()))
    assert cf
    assert all(name.startswith("encoder.") for name in cf)


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 0.5},
        {"lambda_con": 0.2},
        {"con_start_level": 2},
        {"lambda_align": 0.1},
        {"temperature": 0.2},
        {"similarity": "inner"},
    ],
)
def test_every_choice_changes_the_loss(shop, objective, changes):
    batch = Given(shop, modalities=("text", "image"))
    assert float(batch.losses(objective()).total) != float(batch.losses(objective(**changes)).total)


def test_weights_of_zero_switch_their_terms_off(shop, objective):
    batch = Given(shop, modalities=("text", "image"))
    terms = batch.losses(objective(lambda_con=0.0, lambda_align=0.0)).terms
    assert float(terms["con"]) == float(terms["align"]) == 0
    assert float(terms["total"]) == pytest.approx(float(terms["rq"] + terms["recon"]))
    beyond = batch.losses(objective(con_start_level=3)).terms
    assert float(beyond["con"]) == 0


def test_absent_items_change_neither_contrast_nor_alignment(shop, objective):
    """What an absent item's vectors are does not matter to L_con and L_align of the others."""
    batch = Given(shop, modalities=("text", "image"), absent=5)
    before = batch.losses(objective()).terms
    image = batch.quantized["image"]
    image.residuals[:, :5] = 17.0
    image.summed[:5] = -3.0
    after = batch.losses(objective()).terms
    for name in ("con", "align"):
        assert float(before[name]) == float(after[name])
    assert float(before["rq_image_0"]) != float(after["rq_image_0"])
