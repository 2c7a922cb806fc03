"""What makes self-distillation with codes itself: teacher, centre, losses, codes; and that it learns."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from tessera.errors import DataError
from tessera.items.backbones import Shape, new_backbone
from tessera.items.distillation import (
    Codes,
    Head,
    Schedule,
    Student,
    Teacher,
    codebook_table,
    cosine,
    distillation_loss,
    fit,
    follow,
    moved_centre,
    picture_codes,
    rate,
    representations,
)
from tessera.items.views import Cuts, Views

CPU = torch.device("cpu")
CUTS = Cuts(size=16, local_size=8, local_views=2, scale=0.4, jitter=0.1)
CODES = Codes(levels=2, codebook_size=6, alpha=0.25, replace_dead_after=2)
SCHEDULE = Schedule(
    hidden=16,
    bottleneck=8,
    prototypes=24,
    student_temperature=0.1,
    teacher_temperature=0.04,
    centre_momentum=0.9,
    momentum=0.9,
    lambda_rq=0.01,
    epochs=3,
    batch_size=16,
    lr=0.003,
    warmup=0.1,
    weight_decay=0.04,
    clip_norm=3.0,
)


def backbone(seed=0):
    torch.manual_seed(seed)
    shape = Shape("vit_tiny_patch16_224", size=16, patch=4, width=12, layers=1, heads=2)
    return new_backbone(shape, checkpoint=None, sides={}).eval()


def pictures(count=40):
    """Plain pictures of four colours with some noise."""
    draw = torch.Generator().manual_seed(0)
    colours = torch.tensor([[220, 30, 30], [30, 220, 30], [30, 30, 220], [200, 200, 40]])
    noise = torch.randint(-20, 20, (count, 16, 16, 3), generator=draw)
    return (colours[torch.arange(count) % 4][:, None, None, :] + noise).clamp(0, 255).to(torch.uint8)


def fitted(given=None, *, codes=CODES, cuts=CUTS, seed=0, **changes):
    given = pictures() if given is None else given
    return fit(backbone(), given, cuts=cuts, codes=codes, schedule=replace(SCHEDULE, **changes), seed=seed, device=CPU)


def head():
    torch.manual_seed(1)
    return Head(12, hidden=16, bottleneck=8, prototypes=24)


def student():
    teacher = Teacher(backbone(), head()).requires_grad_(False)
    parts = copy.deepcopy(teacher)
    codebooks = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(2))
    return Student(parts.backbone, parts.head, codebooks).requires_grad_(True), teacher


def test_the_loss_by_its_definition():
    """Equation 3, pair by pair: a view is not told what the teacher says of it itself."""
    said, taught = torch.randn(4, 5, 7), torch.randn(2, 5, 7)
    centre = torch.randn(7)
    terms = []
    for one in range(2):
        for other in range(4):
            if one != other:
                targets = torch.softmax((taught[one] - centre) / 0.04, -1)
                terms.append(-(targets * torch.log_softmax(said[other] / 0.1, -1)).sum(-1).mean())
    assert len(terms) == 6
    torch.testing.assert_close(distillation_loss(said, taught, centre, schedule=SCHEDULE), torch.stack(terms).mean())


def test_no_gradient_reaches_what_is_taught():
    said, taught = torch.randn(3, 5, 7, requires_grad=True), torch.randn(2, 5, 7, requires_grad=True)
    distillation_loss(said, taught, torch.zeros(7), schedule=SCHEDULE).backward()
    assert taught.grad is None
    assert said.grad.abs().sum() > 0


def test_the_teacher_follows_the_student():
    one, teacher = student()
    before = {name: weight.clone() for name, weight in teacher.named_parameters()}
    with torch.no_grad():
        for weight in one.parameters():
            weight.add_(1)
    follow(teacher, one, momentum=0.75)
    for name, weight in teacher.named_parameters():
        torch.testing.assert_close(weight, before[name] + 0.25)
        assert not weight.requires_grad


def test_the_centre_follows_what_is_taught():
    taught = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[1.0, 4.0], [3.0, 4.0]]])  # means 2 and 2
    assert moved_centre(torch.tensor([10.0, 0.0]), taught, momentum=0.5).tolist() == [6.0, 1.0]


def test_the_head_compares_directions():
    one = head()
    logits = one(torch.randn(9, 12)).detach()
    assert logits.shape == (9, 24)
    assert float(logits.abs().max()) <= 1 + 1e-6
    with torch.no_grad():
        one.prototypes *= 7
    torch.testing.assert_close(one(torch.ones(1, 12)), head()(torch.ones(1, 12)))


def test_the_student_speaks_through_codes_and_learns_straight_through_them():
    """Its logits are those of summed codes; the backbone's gradient is the head's at those; codes get none of it."""
    one, _ = student()
    seen = Views(torch.rand(4, 3, 16, 16), torch.rand(2, 3, 8, 8))
    states = torch.cat([one.backbone(seen.large), one.backbone(seen.small)])
    logits, steps = one.of_views(seen)
    sums = steps.code_vectors.sum(0).detach().requires_grad_()
    torch.testing.assert_close(logits, one.head(sums))
    one.head(sums)[:, 0].sum().backward()
    expected = torch.autograd.grad(states, list(one.backbone.parameters()), sums.grad)
    one.zero_grad()
    logits[:, 0].sum().backward()
    for weight, gradient in zip(one.backbone.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)
    assert one.codebooks.grad is None


def test_the_losses_fall_and_codes_are_used():
    found = fitted(epochs=20, hidden=32, bottleneck=16, teacher_temperature=0.07)
    history = found.history
    assert history["epoch"].to_list() == list(range(1, 21))
    assert history["dino"][-1] < 0.5 * history["dino"][0]
    assert history["loss"][0] == pytest.approx(history["dino"][0] + 0.01 * history["rq"][0], rel=1e-5)
    assert history["used_0"][-1] > 1
    assert len(picture_codes(found, pictures()).unique()) > 1


def test_the_same_seed_gives_the_same_and_another_does_not():
    one, other, third = (fitted(seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.codebooks, other.codebooks)
    assert one.history.equals(other.history)
    for weight, same in zip(one.backbone.parameters(), other.backbone.parameters(), strict=True):
        assert torch.equal(weight, same)
    assert not torch.equal(one.codebooks, third.codebooks)


def test_the_random_numbers_of_others_are_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    given = backbone()
    torch.random.set_rng_state(before)
    fit(given, pictures(), cuts=CUTS, codes=CODES, schedule=SCHEDULE, seed=0, device=CPU)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_pictures_of_one_code_only_leave_dead_ones_that_are_replaced():
    plain = torch.full((12, 16, 16, 3), 90, dtype=torch.uint8)
    kept = fitted(plain, codes=replace(CODES, replace_dead_after=0), epochs=3).history
    replaced = fitted(plain, codes=replace(CODES, replace_dead_after=1), epochs=3).history
    assert kept["replaced_0"].sum() == 0
    assert replaced["replaced_0"].sum() > 0


def test_without_local_views_the_global_ones_are_learned_from():
    assert math.isfinite(fitted(cuts=CUTS._replace(local_views=0)).history["loss"][-1])


def test_codes_are_the_nearest_codewords_of_what_is_left():
    found = fitted()
    states = torch.cat(list(representations(found.backbone, pictures())))
    for level, codebook in enumerate(found.codebooks):
        chosen = torch.cdist(states, codebook, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        assert torch.equal(picture_codes(found, pictures())[:, level], chosen)
        states = states - codebook[chosen]


def test_a_table_of_codebooks_is_in_their_order():
    table = codebook_table(torch.arange(12.0).view(2, 3, 2))
    assert table["level"].to_list() == [0, 0, 0, 1, 1, 1]
    assert table["code"].to_list() == [0, 1, 2] * 2
    assert table["vector"].to_list()[4] == [8.0, 9.0]


def test_rates_by_hand():
    assert [cosine(done) for done in (0.0, 0.5, 1.0)] == pytest.approx([1, 0.5, 0])
    assert [rate(done, warmup=0.2) for done in (0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.5, 1, 0.5, 0])
    assert rate(0.0, warmup=0.0) == 1
    assert rate(0.5, warmup=1.0) == 0.5


def test_what_cannot_be_learned_from_is_named():
    with pytest.raises(DataError, match="image: expected at least two pictures to learn from, found 1"):
        fitted(pictures(1))
    with pytest.raises(DataError, match=r"distill\.lr: expected a rate at which the loss stays finite, found nan"):
        fitted(lr=1e30, clip_norm=1e30, epochs=5)
