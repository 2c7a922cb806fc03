"""A GPU computes what the CPU does, and the same each time."""

import pytest
import torch
from accelerate.state import AcceleratorState

from tessera.recommender.batches import samples_of
from tessera.recommender.fitting import fit
from tessera.recommender.losses import token_losses
from tessera.recommender.ranking import rank
from tessera.recommender.trie import build_trie
from tessera.recommender.validation import validation_on
from tessera.runtime import accelerator_on
from tests.recommender.trainings import SETTINGS, same

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")

GPU = torch.device("cuda")
ALL_AT_ONCE = SETTINGS._replace(loss="trie_softmax", modality_masking=0.5, alignment_epochs=1, accumulation=2)


@pytest.mark.parametrize("constrained", [False, True])
def test_the_losses_of_a_batch_are_those_of_the_cpu(world, model, constrained):
    here = world()
    samples = here.samples()
    batch = samples.batch(torch.arange(0, len(samples.items), 5))
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
        rank(model(here).eval().to(device), trie, source, beams=9, batch_size=16, renormalise=renormalise)
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


@pytest.mark.usefixtures("_no_accelerator")
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_the_same_seed_gives_the_same_weights(world, model, precision):
    here = world()
    one, other = (
        fit(
            model(here),
            here.samples(),
            validation_on(here.valid, here.tokens, here.vocabulary.tasks, users=20),
            here.tokens,
            vocabulary=here.vocabulary,
            settings=ALL_AT_ONCE,
            accelerator=accelerator_on(str(GPU), precision=precision),
        )
        for _ in range(2)
    )
    assert one.history == other.history
    assert same(one, other)
