import math
from itertools import count

import polars as pl
import pytest
import torch
from accelerate import Accelerator

from tessera.checkpoints import CheckpointStore
from tessera.errors import CheckpointError, DataError
from tessera.recommender.batches import samples_of
from tessera.recommender.fitting import Training, align, fit, learning_rate, optimizer_of
from tessera.recommender.losses import TrainingLosses
from tessera.recommender.model import Sizes
from tessera.recommender.ranking import Share
from tessera.recommender.trie import build_trie
from tessera.recommender.validation import hit_sums, loss_sums, validation_on
from tests.recommender.conftest import apart
from tests.recommender.trainings import SETTINGS, same

NO_DROPOUT = Sizes(
    d_model=16, d_ff=32, d_kv=8, heads=2, encoder_layers=1, decoder_layers=1, dropout=0.0, initializer_factor=1.0
)
WITH_DROPOUT = NO_DROPOUT._replace(dropout=0.1)


class KilledError(Exception):
    pass


class Movable(torch.nn.Linear):
    """A layer that says where it was put, and stays where it is, for want of a GPU."""

    def to(self, device):
        self.put = device
        return self


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_on_a_gpu_all_weights_learn_in_one_kernel(device):
    layer = Movable(2, 2)
    optimizer = optimizer_of(layer, torch.device(device), settings=SETTINGS)
    assert layer.put.type == device
    assert optimizer.defaults["fused"] == (device == "cuda")


@pytest.mark.parametrize("positions", ["tokens", "items"])
def test_norms_and_biases_do_not_decay(positions, world, model):
    here = world()
    part = TrainingLosses(
        model(here, sizes=WITH_DROPOUT._replace(positions=positions)), {}, lambda_implicit=0.0, temperature=0.1
    )
    decays = {
        weight: group["weight_decay"]
        for group in optimizer_of(part, torch.device("cpu"), settings=SETTINGS).param_groups
        for weight in group["params"]
    }
    named = dict(part.named_parameters())
    assert len(decays) == len(named)
    free = {name for name, weight in named.items() if decays[weight] == 0}
    parts = ("layer_norm", "relative_attention_bias", "item_positions")
    assert free == {name for name in named if any(part in name for part in parts)}
    assert any("item_positions" in name for name in free) == (positions == "items")
    assert {decays[weight] for name, weight in named.items() if name not in free} == {SETTINGS.weight_decay}


def trained(here, model, *, samples=None, sizes=WITH_DROPOUT, store=None, die_after=None, **changes):
    epochs = count(1)

    def on_epoch(_):
        if die_after is not None and next(epochs) > die_after:
            raise KilledError

    return fit(
        model(here, sizes=sizes),
        samples or here.samples(),
        validation_on(here.valid, here.tokens, here.vocabulary.tasks, users=20),
        here.tokens,
        vocabulary=here.vocabulary,
        settings=SETTINGS._replace(**changes),
        accelerator=Accelerator(cpu=True),
        store=store,
        on_epoch=on_epoch,
    )


TELLING_TEXT = ["history text -> text", "history image -> text"]


def with_both_modalities_read(here):
    """The world of TELLING_TEXT with both tasks' sources as one, the codes of text before those of image."""

    def read(table):
        text, image = (table.filter(task=task) for task in TELLING_TEXT)
        image_codes = image["source"].list.slice(1)  # without the task's prefix
        without_end = pl.col("source").list.head(pl.col("source").list.len() - 1)
        return text.with_columns(source=pl.concat_list(without_end, image_codes).cast(pl.List(pl.UInt16)))

    return here._replace(train=read(here.train), valid=read(here.valid), test=read(here.test))


@pytest.mark.parametrize("loss", ["softmax", "trie_softmax"])
def test_it_learns_the_circle(world, model, loss):
    """After a few epochs the three items that can follow stand on top: HR@10 of 27 items far above chance."""
    here = world(users=150, tasks=["history text -> text"])
    fitted = trained(here, model, sizes=NO_DROPOUT._replace(d_model=32), epochs=12, lr=0.01, monitor="loss", loss=loss)
    assert fitted.history[-1]["train_loss"] < 0.6 * fitted.history[0]["train_loss"]
    test = validation_on(here.test, here.tokens, here.vocabulary.tasks, users=150)
    hits, _, rows = hit_sums(fitted.model, test.rankings, Share(0, 1), batch_size=64).tolist()
    assert rows == 150
    assert hits / rows > 0.75  # chance is 10 / 27


def test_the_same_seed_gives_the_same_weights_and_another_does_not(world, model):
    here = world()
    first = trained(here, model)
    assert same(first, trained(here, model))
    assert not same(first, trained(here, model, seed=1))


@pytest.mark.parametrize("changes", [{}, {"loss": "trie_softmax", "modality_masking": 0.5}])
@pytest.mark.parametrize("die_after", [1, 2])
def test_a_killed_training_ends_like_one_that_was_not(world, model, tmp_path, die_after, changes):
    here, store = with_both_modalities_read(world(tasks=TELLING_TEXT)), CheckpointStore(tmp_path, "training")
    with pytest.raises(KilledError):
        trained(here, model, store=store, die_after=die_after, **changes)
    assert len(store.load()["history"]) == die_after
    resumed = trained(here, model, store=store, **changes)
    uninterrupted = trained(here, model, **changes)
    assert same(resumed, uninterrupted)
    assert resumed.history == uninterrupted.history


def test_early_stopping_counters_survive_a_kill(world, model, tmp_path):
    here, store = world(), CheckpointStore(tmp_path, "training")
    changes = {"lr": 1e-12, "patience": 2, "epochs": 9}  # nothing is learned, so no look after the first gains
    with pytest.raises(KilledError):
        trained(here, model, store=store, die_after=2, **changes)
    assert (
        len(trained(here, model, store=store, **changes).history) == len(trained(here, model, **changes).history) == 3
    )


def test_a_store_of_another_fingerprint_is_not_looked_at(world, model, tmp_path):
    here = world()
    with pytest.raises(KilledError):
        trained(here, model, store=CheckpointStore(tmp_path, "one"), die_after=1)
    assert CheckpointStore(tmp_path, "other").load() is None


def test_the_weights_are_those_of_the_best_epoch(world, model):
    here = world()
    fitted = trained(here, model, epochs=6, lr=0.3, monitor="loss")  # a rate at which the loss jumps about
    losses = [row["valid_loss"] for row in fitted.history]
    assert fitted.best_epoch == losses.index(min(losses)) + 1
    again = trained(here, model, epochs=6, lr=0.3, monitor="loss")
    assert same(fitted, again)


def test_small_batches_added_up_equal_one_large_batch(world, model):
    """Without dropout and L_implicit, whose negatives are those of a batch, accumulation changes rounding alone."""
    here = world(tasks=["history text -> text"])
    common = {"sizes": NO_DROPOUT, "epochs": 1, "lambda_implicit": 0.0}
    rows = len(here.samples().items)
    large = trained(here, model, batch_size=rows, **common)
    small = trained(here, model, batch_size=math.ceil(rows / 4), accumulation=4, **common)
    for a, b in zip(large.model.parameters(), small.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_the_alignment_comes_first_and_the_training_starts_from_its_weights(world, model):
    here = world(tasks=["history joint -> joint"], layout="marked")
    settings = {"epochs": 1, "lambda_implicit": 0.0, "monitor": "loss"}
    aligned, fresh = model(here, sizes=NO_DROPOUT), model(here, sizes=NO_DROPOUT).state_dict()
    losses = align(
        aligned,
        here.tokens,
        settings=SETTINGS._replace(alignment_epochs=20, **settings),
        accelerator=Accelerator(cpu=True),
    )
    assert len(losses) == 20
    assert losses[-1] < 0.7 * losses[0]
    changed = {name for name, weight in aligned.state_dict().items() if not torch.equal(weight, fresh[name])}
    assert any(name.startswith("encoder.block") for name in changed)
    assert not any(name.startswith("decoder.block") for name in changed)
    in_two_calls = trained(here, lambda *_, **__: aligned, **settings)
    in_one = trained(here, model, sizes=NO_DROPOUT, alignment_epochs=20, **settings)
    assert in_one.alignment == losses
    assert same(in_one, in_two_calls)
    assert not same(in_one, trained(here, model, sizes=NO_DROPOUT, **settings))


class OneOfSeveral(Accelerator):
    """One of several processes, in which nothing comes of the others."""

    def __init__(self, process, *, processes):
        super().__init__(cpu=True)
        self.process, self.processes = process, processes

    num_processes = property(lambda self: self.processes)
    process_index = property(lambda self: self.process)

    def reduce(self, mine, reduction):  # noqa: ARG002
        return mine


@pytest.mark.parametrize(("process", "processes"), [(0, 3), (2, 3), (2, 28)])
def test_each_process_sees_all_items_of_every_batch_of_the_alignment(world, model, process, processes):
    here = world(items=27)
    settings = SETTINGS._replace(alignment_epochs=1, alignment_batch_size=27)

    def loss(accelerator):
        return align(model(here, sizes=NO_DROPOUT), here.tokens, settings=settings, accelerator=accelerator)

    assert loss(OneOfSeveral(process, processes=processes)) == loss(Accelerator(cpu=True))


def test_a_training_that_was_killed_after_its_alignment_ends_like_one_that_was_not(world, model, tmp_path):
    here, store = world(), CheckpointStore(tmp_path, "training")
    with pytest.raises(KilledError):
        trained(here, model, store=store, die_after=1, alignment_epochs=2)
    resumed, unbroken = trained(here, model, store=store, alignment_epochs=2), trained(here, model, alignment_epochs=2)
    assert same(resumed, unbroken)
    assert resumed.alignment == unbroken.alignment


@pytest.mark.parametrize("positions", ["tokens", "items"])
def test_it_learns_joint_ids(world, model, positions):
    here = world(users=150, tasks=["history joint -> joint"], layout="marked")
    fitted = trained(
        here, model, sizes=NO_DROPOUT._replace(d_model=32, positions=positions), epochs=12, lr=0.01, monitor="loss"
    )
    test = validation_on(here.test, here.tokens, here.vocabulary.tasks, users=150)
    hits, _, rows = hit_sums(fitted.model, test.rankings, Share(0, 1), batch_size=64).tolist()
    assert rows == 150
    assert hits / rows > 0.75  # chance is 10 / 27


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "trie_softmax"),
        ("lambda_implicit", 1.0),
        ("alignment_epochs", 1),
        ("temperature", 1.0),
        ("epochs", 2),
        ("batch_size", 32),
        ("accumulation", 2),
        ("lr", 0.01),
        ("warmup", 0.9),
        ("weight_decay", 0.5),
        ("clip_norm", 0.01),
        ("seed", 3),
    ],
)
def test_every_setting_changes_the_weights(world, model, name, value):
    here = world(users=20)
    assert not same(trained(here, model, monitor="loss"), trained(here, model, monitor="loss", **{name: value}))


def test_modality_masking_is_for_sources_of_several(world, model):
    here = world(users=20, tasks=TELLING_TEXT)
    both = with_both_modalities_read(here)
    for place, differs in ((here, False), (both, True)):
        plain, masked = (trained(place, model, modality_masking=share) for share in (0.0, 0.5))
        assert same(plain, masked) != differs
    assert not same(masked, trained(both, model, modality_masking=0.5, seed=1))


def test_what_is_masked_follows_from_the_epoch(world, model):
    """The same steps at a rate at which nothing is learned: whatever differs was masked."""
    both = with_both_modalities_read(world(users=20, tasks=TELLING_TEXT))
    training = Training(
        model(both, sizes=NO_DROPOUT),
        both.samples(),
        validation_on(both.valid, both.tokens, both.vocabulary.tasks, users=20),
        both.tokens,
        vocabulary=both.vocabulary,
        settings=SETTINGS._replace(modality_masking=0.5, lr=1e-30),
        accelerator=Accelerator(cpu=True),
    )
    steps = training.steps(0)
    first, second, again = (training.epoch(epoch, steps, steps)["train_loss"] for epoch in (0, 1, 0))
    assert first == again
    assert not math.isclose(first, second, rel_tol=1e-6)


@pytest.mark.parametrize("loss", ["softmax", "trie_softmax"])
def test_what_is_looked_at_is_the_same_loss_of_sources_that_are_whole(world, model, loss):
    both = with_both_modalities_read(world(users=20, tasks=TELLING_TEXT))
    fitted = trained(both, model, modality_masking=1.0, loss=loss, epochs=1)
    validation = validation_on(both.valid, both.tokens, both.vocabulary.tasks, users=20)
    tries = [build_trie(both.tokens["text"])] if loss == "trie_softmax" else []
    total, tokens = loss_sums(fitted.model, validation.samples, Share(0, 1), batch_size=64, tries=tries).tolist()
    assert fitted.history[0]["valid_loss"] == total / tokens


def test_a_trie_of_ids_that_are_not_there_is_an_error(world, model):
    here = world(users=20)
    unknown = here._replace(train=here.train.with_columns(task=pl.lit("history text -> video")))
    with pytest.raises(DataError, match=r"expected tasks that tell IDs of \['image', 'text'\], found \['video'\]"):
        trained(unknown, model, loss="trie_softmax")


@pytest.mark.parametrize("loss", ["softmax", "trie_softmax"])
def test_each_target_of_a_history_counts_as_a_sample(world, model, loss):
    """All sources in one batch are all samples in one batch, each with its own copy of its source."""
    here = world(users=20, taught=3)
    together, alone = (
        trained(
            here,
            model,
            samples=each,
            sizes=NO_DROPOUT,
            loss=loss,
            lambda_implicit=0.0,
            batch_size=len(each.source.lengths),
        )
        for each in (here.samples(), apart(here.samples()))
    )
    assert together.history == [pytest.approx(row, rel=1e-4) for row in alone.history]
    assert together.history[-1]["train_loss"] < together.history[0]["train_loss"]


def test_fewer_sources_than_processes_are_an_error(world, model, monkeypatch):
    here = world()
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(Accelerator, "num_processes", 4)
    few = samples_of(here.train.head(3))
    with pytest.raises(DataError, match="training sources: expected at least one for each of 4 processes, found 3"):
        fit(
            model(here, sizes=NO_DROPOUT),
            few,
            validation_on(here.valid, here.tokens, here.vocabulary.tasks, users=20),
            here.tokens,
            vocabulary=here.vocabulary,
            settings=SETTINGS,
            accelerator=accelerator,
        )


def test_the_monitor_says_what_is_measured_and_when(world, model):
    here = world(users=20)
    by_loss = trained(here, model, monitor="loss").history
    by_rank = trained(here, model, monitor="hr@10", monitor_every=2).history
    assert [set(row) & {"valid_loss", "valid_hr@10"} for row in by_loss] == [{"valid_loss"}] * 3
    assert ["valid_hr@10" in row for row in by_rank] == [False, True, True]  # the last epoch is always looked at


def test_monitor_users_are_taken_at_even_distances(world):
    here = world(users=60)
    few = validation_on(here.valid, here.tokens, here.vocabulary.tasks, users=4)
    assert len(few.rankings) == 2
    assert all(len(task.targets) == 4 for task in few.rankings)
    everyone = samples_of(here.valid.filter(task="history text -> text"))
    assert few.rankings[0].targets.tolist() == everyone.items[[0, 19, 39, 59]].tolist()


def test_a_loss_that_is_no_number_stops_the_training(world, model):
    with pytest.raises(CheckpointError, match="expected a finite loss"):
        trained(world(), model, lr=1e30, epochs=4)


def test_a_look_that_is_no_number_stops_the_training_before_its_weights_are_kept(world, model, monkeypatch, tmp_path):
    """The last step of an epoch can break what no loss of that epoch has told of."""
    store = CheckpointStore(tmp_path, "training")
    looks = iter([{"valid_loss": 1.0}, {"valid_loss": math.nan}])
    monkeypatch.setattr(Training, "_measured", lambda _: next(looks))
    with pytest.raises(CheckpointError, match=r"expected a finite loss, found .*nan"):
        trained(world(), model, store=store, monitor="loss", monitor_every=1, epochs=3)
    kept = store.load()
    assert kept["best_epoch"] == len(kept["history"]) == 1


def test_learning_rate_by_hand():
    rates = [learning_rate(step, steps=12, peak=1.0, warmup=1 / 6) for step in range(12)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert math.isclose(rates[7], 0.5)  # half of the ten steps after the warm-up
    assert 0 < rates[11] < 0.05
    assert learning_rate(0, steps=5, peak=1.0, warmup=0.0) == 1.0
