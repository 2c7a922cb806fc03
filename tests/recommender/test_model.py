import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5ForConditionalGeneration

from tessera.errors import CheckpointError
from tessera.recommender.model import Sizes, load_model
from tessera.recommender.vocabulary import Vocabulary

TINY = Sizes(
    d_model=16, d_ff=32, d_kv=8, heads=2, encoder_layers=1, decoder_layers=2, dropout=0.1, initializer_factor=1.0
)


def test_a_checkpoint_is_a_plain_transformers_t5(world, model, tmp_path):
    here = world()
    made = model(here).eval()
    made.save_pretrained(tmp_path)
    plain, ours = (
        T5ForConditionalGeneration.from_pretrained(tmp_path),
        load_model(tmp_path, here.vocabulary, here.tokens),
    )
    source = here.samples().source.padded(torch.arange(4))
    labels = here.samples().target.padded(torch.arange(4))
    expected = made(input_ids=source, labels=labels).logits
    assert torch.equal(plain.eval()(input_ids=source, labels=labels).logits, expected)
    assert torch.equal(ours(input_ids=source, labels=labels).logits, expected)


def test_weights_follow_from_the_seed_and_leave_the_global_generator_alone(world, model):
    here = world()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = model(here, seed=0), model(here, seed=0), model(here, seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.shared.weight, again.shared.weight)
    assert not torch.equal(first.shared.weight, other.shared.weight)


@pytest.mark.parametrize("size", [name for name in TINY._fields if isinstance(getattr(TINY, name), int)])
def test_every_size_changes_the_model(world, model, size):
    here = world()
    larger = TINY._replace(**{size: getattr(TINY, size) * 2})
    assert model(here, sizes=larger).num_parameters() > model(here, sizes=TINY).num_parameters()


def test_dropout_reaches_the_model(world, model):
    here = world()
    assert model(here, sizes=TINY._replace(dropout=0.5)).config.dropout_rate == 0.5


def test_the_initializer_factor_scales_the_weights_that_a_training_starts_from(world, model):
    here = world()
    spreads = [model(here, sizes=TINY._replace(initializer_factor=f)).shared.weight.std() for f in (1.0, 0.25)]
    assert torch.allclose(spreads[1], spreads[0] / 4)


def test_a_checkpoint_of_another_vocabulary_is_refused(world, model, tmp_path):
    here = world()
    model(here).save_pretrained(tmp_path)
    other = Vocabulary(here.vocabulary.tasks, {"text": (3, 3, 4), "image": (3, 3, 2)})
    assert other.size == here.vocabulary.size
    with pytest.raises(CheckpointError, match=f"expected a model of the vocabulary {other.fingerprint[:12]}"):
        load_model(tmp_path, other, here.tokens)


def test_a_checkpoint_that_lacks_weights_is_refused(world, model, tmp_path):
    here = world()
    model(here).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = "decoder.block.0.layer.2.DenseReluDense.wi.weight"
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"expected all weights of a T5, found no {lost}"):
        load_model(tmp_path, here.vocabulary, here.tokens)


def test_a_checkpoint_of_other_ids_is_refused(world, model, tmp_path):
    here = world()
    model(here).save_pretrained(tmp_path)
    swapped = here.tokens | {"text": here.tokens["text"][::-1]}
    with pytest.raises(CheckpointError, match="expected a model of the semantic IDs"):
        load_model(tmp_path, here.vocabulary, swapped)


def test_a_folder_without_a_checkpoint_is_refused(world, model, tmp_path):
    here = world()
    with pytest.raises(CheckpointError, match=r"expected a T5 checkpoint, found no config\.json"):
        load_model(tmp_path, here.vocabulary, here.tokens)
    model(here).config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(tmp_path, here.vocabulary, here.tokens)
