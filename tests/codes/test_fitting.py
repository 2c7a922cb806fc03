"""Training: that it learns, that it repeats itself, and that every parameter does what it says."""

import numpy as np
import polars as pl
import pytest
import torch

from tessera.codes.encoding import encode
from tessera.codes.fitting import _clusters, _Items, _neighbours, fit
from tessera.codes.losses import ABSENT, positives
from tessera.codes.quantizer import CrossModalQuantizer
from tessera.codes.rows import Collaborative
from tessera.errors import DataError
from tessera.row_files import vector_rows
from tessera.usage import levels

CPU = torch.device("cpu")


@pytest.fixture
def fitted(shop, objective, schedule):
    """Return `fitted(section changes..., modalities=...)` on the small catalogue."""

    def run(given=None, *, architecture=None, seed=0, progress=iter, collaborative=None, **changes):
        given = given or shop()
        weights = {k: v for k, v in changes.items() if k in objective().__dataclass_fields__}
        return fit(
            given.vectors,
            given.labels,
            architecture=given.architecture(**(architecture or {})),
            objective=objective(**weights),
            schedule=schedule(**{k: v for k, v in changes.items() if k not in weights}),
            generator=torch.Generator().manual_seed(seed),
            device=CPU,
            progress=progress,
            collaborative=collaborative,
        )

    return run


def known(*, items=120, width=4, absent=0):
    vectors = torch.randn(items, width, generator=torch.Generator().manual_seed(7))
    return Collaborative(vectors, torch.arange(items) >= absent)


@pytest.fixture
def usual(fitted, weights):
    return weights(fitted().quantizer)


def same(one, other):
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )


def test_the_same_seed_gives_the_same_weights_and_another_one_others(fitted, weights, usual):
    before = torch.random.get_rng_state()
    assert same(weights(fitted().quantizer), usual)
    assert not same(weights(fitted(seed=1).quantizer), usual)
    assert torch.equal(before, torch.random.get_rng_state())


def test_vectors_in_a_file_give_the_weights_and_codes_that_tensors_give(fitted, shop, weights, usual, tmp_path):
    given = shop()
    for name, vectors in given.vectors.items():
        pl.DataFrame({"vector": vectors.numpy()}).write_parquet(tmp_path / name)
    with vector_rows({name: tmp_path / name for name in given.vectors}, scratch=tmp_path) as rows:
        quantizer = fitted(given._replace(vectors=rows), architecture={"widths": {"text": 10, "image": 11}}).quantizer
        assert same(weights(quantizer), usual)
        read, held = (encode(quantizer, "text", each["text"], device=CPU) for each in (rows, given.vectors))
    assert np.array_equal(read.residuals, held.residuals)


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 0.5},
        {"lambda_con": 0.0},
        {"lambda_con": 0.5},
        {"con_start_level": 2},
        {"lambda_align": 0.5},
        {"lambda_cf": 0.5},
        {"lambda_diversity": 0.5},
        {"temperature": 0.2},
        {"similarity": "inner"},
        {"epochs": 4},
        {"batch_size": 60},
        {"lr": 0.002},
        {"weight_decay": 0.1},
        {"initialisation": "random"},
        {"sinkhorn_epsilon": 0.01},
        {"architecture": {"levels": 2}},
        {"architecture": {"codebook_size": 4}},
        {"architecture": {"latent_dim": 5}},
        {"architecture": {"hidden": (17,)}},
        {"architecture": {"method": "rkmeans"}},
    ],
    ids=str,
)
def test_every_parameter_changes_the_weights(fitted, weights, usual, changes):
    assert not same(weights(fitted(**changes, collaborative=known()).quantizer), usual)


def test_what_is_known_of_items_means_nothing_without_its_weight(fitted, weights, usual):
    assert same(weights(fitted(collaborative=known()).quantizer), usual)


def test_the_number_of_clusters_changes_the_weights(fitted, weights):
    one, other = (weights(fitted(lambda_diversity=0.5, diversity_clusters=n).quantizer) for n in (2, 4))
    assert not same(one, other)


def test_replacing_dead_codes_changes_codes_that_nothing_else_would(fitted):
    """Many random codes start where the encoder puts no item, and with a rate of next to 0 stay there."""
    settings = {"initialisation": "random", "lr": 1e-9, "epochs": 5, "architecture": {"codebook_size": 64}}
    kept = fitted(**settings, replace_dead_after=0)
    replaced = fitted(**settings, replace_dead_after=2)
    assert kept.history["replaced_text_0"].sum() == 0
    assert replaced.history["replaced_text_0"].to_list()[0] == 0
    assert replaced.history["replaced_text_0"].to_list()[1] > 0
    assert replaced.history["used_text_0"][-1] > kept.history["used_text_0"][-1]


def evenness(fitted, shop, **changes):
    """How evenly a training on a shop of few, unlike kinds of items uses the last level's codes: their entropy."""
    given = shop(("text",), items=400, clusters=4)
    architecture = {"levels": 2, "codebook_size": 16}
    quantizer = fitted(given, architecture=architecture, epochs=60, lr=5e-3, batch_size=100, **changes).quantizer
    return levels(encode(quantizer, "text", given.vectors["text"], device=CPU).codes)[-1].entropy


def test_uniform_codes_in_training_use_the_last_level_more_evenly_for_good(fitted, shop):
    assert evenness(fitted, shop, sinkhorn_epsilon=0.003) > evenness(fitted, shop) + 0.05


def test_uniform_codes_are_chosen_at_the_last_level_alone(fitted):
    """In a first batch of all items, before any step, levels but the last choose as they always do."""
    once = {"epochs": 1, "batch_size": 1000}
    usual, uniform = fitted(**once).history, fitted(**once, sinkhorn_epsilon=0.003).history
    for level, same_loss in enumerate((True, True, False)):
        assert (usual[f"rq_text_{level}"][0] == uniform[f"rq_text_{level}"][0]) == same_loss


def test_training_lowers_the_reconstruction_error_and_uses_most_codes(fitted, shop):
    given = shop(items=300)
    history = fitted(given, epochs=60, lr=5e-3, architecture={"hidden": (32,), "latent_dim": 8}).history
    assert history["recon"][-1] < 0.5 * history["recon"][0]
    for modality in ("text", "image"):
        assert history[f"used_{modality}_0"][-1] >= 6
        assert history[f"used_{modality}_1"][-1] >= 5


def test_the_contrast_pulls_together_what_shares_the_other_modality(fitted, shop):
    given = shop(items=200)

    def contrast_after(weight):
        history = fitted(given, epochs=40, lr=5e-3, lambda_con=weight, lambda_align=0.0).history
        return history["con"][-1]

    assert contrast_after(5.0) < contrast_after(1e-6)


def test_history_has_a_row_an_epoch_and_finite_numbers(fitted):
    history = fitted(epochs=4).history
    assert history["epoch"].to_list() == [1, 2, 3, 4]
    assert history.columns[:6] == ["epoch", "total", "rq", "recon", "con", "align"]
    assert {"con_text_by_image_1", "con_image_by_text_2", "align_text_image", "used_image_2"} <= set(history.columns)
    assert "con_text_by_image_0" not in history.columns
    assert history.null_count().sum_horizontal().item() == 0
    weighted = history["rq"] + history["recon"] + 0.1 * history["con"] + 0.001 * history["align"]
    assert history["total"].to_list() == pytest.approx(weighted.to_list(), rel=1e-4)


def test_progress_is_told_of_every_epoch(fitted):
    told = []

    def progress(epochs):
        for epoch in epochs:
            told.append(epoch)
            yield epoch

    fitted(epochs=3, progress=progress)
    assert told == [0, 1, 2]


@pytest.mark.parametrize("modalities", [("text",), ("text", "image", "sound")])
def test_one_modality_and_three(fitted, shop, modalities):
    history = fitted(shop(modalities)).history
    pairs = len(modalities) * (len(modalities) - 1)
    assert sum(name.startswith("positives_") for name in history.columns) == pairs
    assert sum(name.startswith("align_") for name in history.columns) == pairs // 2


def test_vectors_are_centred_on_those_present_and_of_unit_mean_square(fitted, shop):
    given = shop(absent=40)
    part = fitted(given, epochs=1).quantizer.of("image")
    scaled = part.scaled(given.vectors["image"])
    assert scaled[40:].mean(0).abs().max() < 1e-5
    assert float(scaled[40:].square().mean()) == pytest.approx(1, rel=1e-5)
    assert scaled[:40].abs().max() < 1e-5


def test_the_scale_of_the_vectors_does_not_matter_to_the_codes(fitted, shop):
    given = shop()
    larger = given._replace(vectors={name: 1000 * matrix for name, matrix in given.vectors.items()})
    one, other = fitted(given).history, fitted(larger).history
    assert one["total"].to_list() == pytest.approx(other["total"].to_list(), rel=1e-3)


def test_equal_vectors_are_no_trouble(fitted, shop):
    given = shop(("text",))
    given.vectors["text"][:] = 3.0
    assert fitted(given).history["recon"][-1] == 0


def test_fewer_items_than_codes(fitted, shop):
    history = fitted(shop(items=5)).history
    assert history["used_text_0"][-1] <= 5


def test_first_codes_are_the_clusters_of_the_first_residuals(fitted):
    """With next to no learning, k-means codes leave less than random ones do."""
    clustered = fitted(epochs=1, lr=1e-9).history["rq"][0]
    random = fitted(epochs=1, lr=1e-9, initialisation="random").history["rq"][0]
    assert clustered < 0.5 * random


def test_residual_kmeans_learns_no_network_and_has_a_history_of_one_look(fitted, shop):
    given = shop()
    result = fitted(given, architecture={"method": "rkmeans"}, epochs=7)
    assert result.history.height == 1
    part = result.quantizer.of("text")
    assert part.codebooks.shape == (3, 8, 10)
    recon = [fitted(given, architecture={"method": "rkmeans", "levels": n}).history["recon"][0] for n in (1, 2, 3)]
    assert recon[0] > recon[1] > recon[2] > 0


class TestBatches:
    """An epoch of `_Items`."""

    @pytest.fixture
    def items(self, shop):
        given = shop(items=11)
        given.vectors["text"][:, 0] = torch.arange(11.0)
        given.labels["image"][:] = torch.arange(11)
        return _Items(("text", "image"), given.vectors, given.labels, device=CPU)

    @pytest.mark.parametrize(("size", "sizes"), [(4, [4, 4, 3]), (6, [6, 5]), (11, [11]), (50, [11])])
    def test_all_items_once_in_equal_batches(self, items, size, sizes):
        batches = list(items.batches(size, generator=torch.Generator()))
        assert [len(batch.labels["text"]) for batch in batches] == sizes
        assert sorted(torch.cat([batch.labels["image"] for batch in batches]).tolist()) == list(range(11))

    def test_rows_of_vectors_and_labels_belong_together(self, items):
        for batch in items.batches(4, generator=torch.Generator()):
            assert batch.vectors["text"][:, 0].tolist() == batch.labels["image"].tolist()
            assert (
                batch.draws["text", "image"].shape == batch.draws["image", "text"].shape == batch.labels["text"].shape
            )

    def test_the_order_is_new_each_time(self, items):
        generator = torch.Generator()
        first, second = (next(iter(items.batches(11, generator=generator))).labels["image"] for _ in range(2))
        assert first.tolist() != second.tolist()


def test_absent_items_are_nobodys_positive(shop):
    labels = shop(absent=30).labels["image"]
    chosen = positives(labels, torch.rand(120, generator=torch.Generator()))
    assert torch.equal(chosen[:30], torch.arange(30))
    assert (labels[chosen[30:]] != ABSENT).all()


def test_the_terms_of_letter_are_in_the_history_where_they_have_a_weight(fitted):
    usual = set(fitted().history.columns)
    history = fitted(lambda_cf=0.5, lambda_diversity=0.1, collaborative=known()).history
    levels = {f"diversity_{modality}_{level}" for modality in ("text", "image") for level in range(3)}
    assert set(history.columns) - usual == {"cf", "cf_text", "cf_image", "diversity", *levels}


def test_codes_come_to_tell_what_is_known_of_items(fitted):
    def told(weight):
        return fitted(epochs=60, lr=5e-3, lambda_cf=weight, collaborative=known()).history["cf"][-1]

    assert told(5.0) < 0.9 * told(1e-6)


def test_neither_scale_nor_shift_of_what_is_known_matters(fitted):
    moved = known()._replace(vectors=1000 * known().vectors + 500)
    one, other = (fitted(lambda_cf=0.5, similarity="inner", collaborative=each).history for each in (known(), moved))
    assert one["cf"].to_list() == pytest.approx(other["cf"].to_list(), rel=1e-2)


def test_items_of_which_nothing_is_known_do_not_matter(fitted):
    strange = known(absent=30)
    strange.vectors[:30] = 77.0
    one, other = (fitted(lambda_cf=0.5, collaborative=each).history for each in (known(absent=30), strange))
    assert one["cf"].to_list() == pytest.approx(other["cf"].to_list(), rel=1e-5)


def test_clusters_of_codes_are_about_equally_large_and_neighbours_share_one(shop, objective):
    """As the published bounds have it: 10 to 60 of 256 codes."""
    quantizer = CrossModalQuantizer(shop().architecture(codebook_size=256, latent_dim=16))
    for part in quantizer.parts:
        torch.nn.init.normal_(part.codebooks, generator=torch.Generator().manual_seed(0))
    chosen, generator = objective(lambda_diversity=0.1, diversity_clusters=10), torch.Generator().manual_seed(0)
    clusters = _clusters(quantizer, chosen, generator=generator)
    for numbers in clusters["text"]:
        sizes = torch.bincount(numbers, minlength=10)
        assert sizes.min() >= 10
        assert sizes.max() <= 60
    targets = _neighbours(quantizer, clusters, generator=generator)["text"].targets
    assert torch.equal(clusters["text"].gather(1, targets), clusters["text"])
    assert (targets != torch.arange(256)).all()
    assert not _clusters(quantizer, objective(), generator=generator)


def test_without_the_vectors_to_learn_from_lambda_cf_is_named(fitted):
    expected = (
        r"quant.lambda_cf: expected collaborative vectors of 120 items, 4 wide as quant.latent_dim says, .* found "
    )
    with pytest.raises(DataError, match=expected + "none"):
        fitted(lambda_cf=0.1)
    with pytest.raises(DataError, match=expected + r"vectors of shape \(120, 5\)"):
        fitted(lambda_cf=0.1, collaborative=known(width=5))
    with pytest.raises(DataError, match=expected + r"vectors of shape \(7, 4\)"):
        fitted(lambda_cf=0.1, collaborative=known(items=7))
    assert fitted(lambda_cf=0.1, architecture={"method": "rkmeans"}).history.height == 1


def test_errors_name_the_modality_and_what_is_wrong(fitted, shop):
    given = shop()
    with pytest.raises(DataError, match="image: expected vectors and labels, found no labels"):
        fitted(given._replace(labels={"text": given.labels["text"]}))
    with pytest.raises(DataError, match="sound: expected vectors and labels, found no vectors"):
        fitted(given, architecture={"widths": {"text": 10, "sound": 3}})
    with pytest.raises(DataError, match=r"image: expected 120 vectors of width 11 .* found vectors of shape \(7, 11\)"):
        fitted(given._replace(vectors={**given.vectors, "image": given.vectors["image"][:7]}))
    nowhere = {**given.labels, "image": torch.full_like(given.labels["image"], ABSENT)}
    with pytest.raises(DataError, match="image: expected an item that has this modality, found none among 120"):
        fitted(given._replace(labels=nowhere))
    given.vectors["text"][3, 4] = torch.nan
    with pytest.raises(DataError, match="text: expected finite vectors"):
        fitted(given)


def test_a_loss_that_leaves_the_finite_numbers_is_an_error(fitted):
    with pytest.raises(DataError, match=r"quant.lr: expected .* found (nan|inf) in epoch \d"):
        fitted(lr=1e30, epochs=6)
