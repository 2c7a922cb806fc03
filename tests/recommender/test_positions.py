"""Two relative positions: across items and within an item."""

import numpy as np
import pytest
import torch

from tessera.errors import CheckpointError
from tessera.recommender.model import load_model, new_model, save_model
from tessera.recommender.network import Network
from tessera.recommender.positions import ItemPositions
from tessera.recommender.vocabulary import END, PAD, Vocabulary
from tessera.tasks import parse_tasks
from tests.recommender.conftest import TINY

BY_ITEMS = TINY._replace(positions="items", dropout=0.0)


@pytest.fixture
def words() -> Vocabulary:
    """Tokens: 2 a task, 3 the mark, 4-5 and 6-7 the levels of text, 8-9 image."""
    tasks = parse_tasks(["history joint -> text", "item text -> image"], ["text", "image"], layout="marked")
    return Vocabulary(tasks, {"text": (2, 2), "image": (2,)}, "marked")


@pytest.mark.parametrize(
    ("source", "items", "slots"),
    [
        ([4, 7, 3, 9, 5, 7, 3, 8, END, PAD], [0, 0, 0, 0, 1, 1, 1, 1, 2, 2], [0, 1, 1, 2, 0, 1, 1, 2, 0, 0]),
        ([9, 8, 9, END], [0, 1, 2, 3], [2, 2, 2, 0]),  # image alone
        ([2, 4, 7, END], [0, 1, 1, 2], [0, 0, 1, 0]),  # after a task's token
        ([2, 9, 8, END], [0, 1, 2, 3], [0, 2, 2, 0]),  # whichever modality it reads
        ([2, 3, 9, END], [0, 0, 0, 1], [0, 0, 2, 0]),
        (
            [PAD, PAD, 3, 9, PAD, PAD, 3, 8, END],
            [0, 0, 0, 0, 0, 0, 0, 1, 2],
            [0, 0, 0, 2, 2, 2, 2, 2, 0],
        ),
    ],
)
def test_places_by_hand(words, source, items, slots):
    found = ItemPositions(words, heads=2).places(torch.tensor([source]))
    assert [table.tolist() for table in found] == [[items], [slots]]


def test_the_bias_of_two_tokens_depends_on_how_far_apart_they_are_in_items_and_slots_alone(words, world):
    here = world()
    encoder = new_model(here.vocabulary, here.tokens, BY_ITEMS, seed=0).encoder
    attention = encoder.block[0].layer[0].SelfAttention
    source = torch.tensor([[4, 7, 3, 9, 5, 7, 3, 8, 4, 6, 3, 8, END]])
    positions = ItemPositions(words, heads=attention.n_heads)
    bias, (items, slots) = positions(attention, source)[0], positions.places(source)
    table = attention.relative_attention_bias.weight
    for one in range(source.shape[1]):
        for other in range(source.shape[1]):
            in_items, in_slots = (int(places[0, other] - places[0, one]) for places in (items, slots))
            bucket = abs(in_items) + (16 if in_items > 0 else 0)  # T5's own rule for distances below 8
            expected = table[bucket] + positions.within.weight[in_slots + 2]
            assert torch.allclose(bias[:, one, other], expected)


def test_a_checkpoint_gives_the_same_states_again(world, tmp_path):
    here = world()
    model = new_model(here.vocabulary, here.tokens, BY_ITEMS, seed=0).eval()
    save_model(model, tmp_path)
    again = load_model(tmp_path, here.vocabulary, here.tokens)
    source = here.samples().source.padded(torch.arange(0, 200, 9))
    assert torch.equal(Network(model).encode(source).states, Network(again).encode(source).states)
    plain = new_model(here.vocabulary, here.tokens, BY_ITEMS._replace(positions="tokens"), seed=0).eval()
    assert not torch.equal(Network(model).encode(source).states, Network(plain).encode(source).states)


def test_a_checkpoint_without_its_table_is_refused(world, tmp_path):
    here = world()
    save_model(new_model(here.vocabulary, here.tokens, BY_ITEMS, seed=0), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(tmp_path, here.vocabulary, here.tokens)


def test_slots_cover_every_code_once(words):
    assert words.slots.tolist() == [-1, 0, 0, -1, 0, 0, 1, 1, 2, 2]
    assert np.array_equal(
        words.slots[words.all_tokens({"text": np.array([[1, 1]]), "image": np.array([[0]])})["joint"]], [[0, 1, -1, 2]]
    )
