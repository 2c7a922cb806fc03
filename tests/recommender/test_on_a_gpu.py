"""A GPU computes what the CPU does, and the same each time."""

import pytest
import torch
from accelerate.state import AcceleratorState

from tessera.checkpoints import CheckpointStore
from tessera.recommender import fitting
from tessera.recommender.batches import samples_of
from tessera.recommender.fitting import fit
from tessera.recommender.gradients import Replayed
from tessera.recommender.losses import token_losses
from tessera.recommender.ranking import rank
from tessera.recommender.readers import reader_of
from tessera.recommender.trie import build_trie
from tessera.recommender.validation import validation_on
from tessera.runtime import accelerator_on
from tests.recommender.trainings import SETTINGS, same

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")

GPU = torch.device("cuda")
ALL_AT_ONCE = SETTINGS._replace(loss="trie_softmax", modality_masking=0.5, alignment_epochs=1, accumulation=2)

#: Batches that come in the same few shapes in each of these epochs, so that most of them are replayed.
REPLAYED = {"batch_size": 40, "epochs": 6}


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("taught", [0, 3])
def test_the_losses_of_a_batch_are_those_of_the_cpu(world, model, constrained, taught):
    here = world(taught=taught)
    samples = here.samples()
    batch = samples.batch(torch.arange(0, len(samples.source.lengths), 5))
    found = []
    for device in (torch.device("cpu"), GPU):
        tries = [build_trie(here.tokens[name]).to(device) for name in samples.names] if constrained else []
        found.append(token_losses(model(here).eval().to(device), batch.to(device), tries).item())
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("renormalise", [False, True])
def test_rankings_are_those_of_the_cpu(world, model, renormalise):
    here = world()
    source = samples_of(here.test.filter(task="history text -> text")).source
    trie = build_trie(here.tokens["text"])
    theirs, ours = (
        rank(reader_of(model(here).eval().to(device)), trie, source, beams=9, batch_size=16, renormalise=renormalise)
        for device in (torch.device("cpu"), GPU)
    )
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=0)
    assert torch.equal(ours.items.sort(dim=1).values, theirs.items.sort(dim=1).values)


@pytest.fixture
def _no_accelerator():
    """No process has chosen its device yet, and none has when the test is over."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class KilledError(Exception):
    pass


def trained(here, model, *, precision="fp32", store=None, die_after=None, **changes):
    def on_epoch(row):
        if row["epoch"] == die_after:
            raise KilledError

    return fit(
        model(here),
        here.samples(),
        validation_on(here.valid, here.tokens, here.vocabulary.tasks, users=20),
        here.tokens,
        vocabulary=here.vocabulary,
        settings=ALL_AT_ONCE._replace(**changes),
        accelerator=accelerator_on(str(GPU), precision=precision),
        store=store,
        on_epoch=on_epoch,
    )


@pytest.mark.usefixtures("_no_accelerator")
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_the_same_seed_gives_the_same_weights(world, model, precision):
    here = world()
    one, other = (trained(here, model, precision=precision, **REPLAYED) for _ in range(2))
    assert one.history == other.history
    assert same(one, other)


@pytest.mark.usefixtures("_no_accelerator")
@pytest.mark.parametrize(("loss", "taught"), [("softmax", 0), ("trie_softmax", 0), ("trie_softmax", 3)])
def test_what_is_replayed_is_what_the_function_does(world, model, monkeypatch, loss, taught):
    """Kernel by kernel as it is written, or from CUDA graphs: the same weights, dropout and all."""
    here = world(taught=taught)
    changes = REPLAYED | {"loss": loss}
    replays = []
    monkeypatch.setattr(Replayed, "__call__", counted(Replayed.__call__, replays))
    fast = trained(here, model, **changes)
    assert len(replays) > len(set(replays)) * 2
    monkeypatch.setattr(fitting, "replayed", lambda function, _: function)
    plain = trained(here, model, **changes)
    for one, other in zip(fast.history, plain.history, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
    assert same(fast, plain)


def counted(call, replays):
    def counting(self, *arguments):
        replays.append(tuple(argument.shape for argument in arguments))
        return call(self, *arguments)

    return counting


@pytest.mark.usefixtures("_no_accelerator")
def test_a_killed_training_ends_like_one_that_was_not(world, model, tmp_path):
    """Other batches are replayed after a resumption than without one."""
    here, store = world(), CheckpointStore(tmp_path, "training")
    with pytest.raises(KilledError):
        trained(here, model, store=store, die_after=4, **REPLAYED)
    resumed, uninterrupted = trained(here, model, store=store, **REPLAYED), trained(here, model, **REPLAYED)
    assert resumed.history == uninterrupted.history
    assert same(resumed, uninterrupted)
