import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from tessera.recommender import gradients
from tessera.recommender.batches import Batch
from tessera.recommender.gradients import Gradients, Replayed, replayed
from tessera.recommender.losses import TrainingLosses
from tessera.recommender.trie import Trie, build_trie
from tests.recommender.conftest import TASKS

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Processes(Accelerator):
    """Says that there are three processes, of which the others have the gradients that are told."""

    def __init__(self, *others: torch.Tensor) -> None:
        super().__init__(cpu=True)
        self.others = others

    @property
    def num_processes(self):
        return 3

    def reduce(self, mine, reduction):
        assert reduction == "sum"
        return mine + sum(self.others)


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_gradients_add_up_and_begin_anew_where_they_are():
    one, other = layer(), layer()
    found = Gradients(one.parameters(), Accelerator(cpu=True))
    places = [weight.grad.data_ptr() for weight in one.parameters()]
    batches = torch.randn(2, 5, 3)
    for _ in range(2):
        for batch in batches:
            found.add(one(batch).square().sum())
        found.meet()
        (sum(other(batch).square().sum() for batch in batches)).backward()
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)
            assert mine.grad.any()
        found.clear()
        other.zero_grad()
        assert not any(weight.grad.any() for weight in one.parameters())
    assert [weight.grad.data_ptr() for weight in one.parameters()] == places


def test_two_of_the_same_weights_share_their_memory_and_begin_with_0():
    """The alignment comes between the making of a training's and its first step."""
    network = layer()
    whole, part = Gradients(network.parameters(), Accelerator(cpu=True)), [network.weight]
    whole.add(network.weight.sum() + network.bias.sum())
    other = Gradients(part, Accelerator(cpu=True))
    assert not network.weight.grad.any()
    other.add(2 * network.weight.sum())
    assert network.weight.grad.unique().tolist() == whole.sums[0].unique().tolist() == [2]


def test_every_process_has_the_sum_over_all():
    network = layer()
    others = torch.arange(8.0), torch.full((8,), 100.0)
    found = Gradients(network.parameters(), Processes(*others))
    found.add(network.weight.sum() + 3 * network.bias.sum())
    found.meet()
    assert network.weight.grad.tolist() == [[101, 102, 103], [104, 105, 106]]
    assert network.bias.grad.tolist() == [109, 110]


def without_content(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device=GPU)


def trie_without_content(trie: Trie) -> Trie:
    levels = tuple(
        level._replace(**{name: without_content(getattr(level, name)) for name in ("starts", "tokens", "spans")})
        for level in trie.levels
    )
    return Trie(levels, *map(without_content, trie[1:]))


@pytest.mark.parametrize("constrained", [False, True])
def test_no_loss_of_a_batch_waits_for_a_gpu(world, model, constrained):
    """With tensors that have a device and no content, for want of a GPU: whoever asks for content raises."""
    here = world(tasks=TASKS, taught=2)
    samples = here.samples()
    batch = samples.batch(torch.arange(0, 300, 7))
    tries = [build_trie(here.tokens[name]) for name in samples.names if constrained]
    with FakeTensorMode(allow_non_fake_inputs=True), GPU:
        network = model(here).train()
        ids = {name: without_content(table) for name, table in here.ids().items()}
        losses = TrainingLosses(
            network, ids, lambda_implicit=0.5, temperature=0.1, tries=[trie_without_content(trie) for trie in tries]
        )
        fake = Batch(*map(without_content, batch))
        assert {loss.device.type for loss in losses(fake, fake.items[:9])} == {"cuda"}
        with pytest.raises(DynamicOutputShapeException):
            losses(fake)


class Graph:
    """What a CUDA graph does, done by calling the function again: its result is written to where it was at first."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        self.result.copy_(self.function(*self.places))


@pytest.fixture
def captures(monkeypatch) -> list[Graph]:
    """All graphs that are captured, on a machine that need not have a GPU."""
    made = []

    def captured(self, arguments):
        graph, places = Graph(), [argument.clone() for argument in arguments]
        graph.function, graph.places, graph.result = self.function, places, torch.zeros_like(self.function(*places))
        made.append(graph)
        return gradients.Captured(graph, places, graph.result)

    monkeypatch.setattr(Replayed, "_captured", captured)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    return made


def test_what_is_replayed_gives_what_the_function_gives(captures):
    """A graph for each of the shapes, captured when they come again and replayed from then on."""
    function = replayed(lambda one, other: one.sum() * other, GPU)
    for number, (rows, columns) in enumerate([(2, 3), (2, 3), (4, 3), (2, 3), (4, 3), (4, 3)]):
        one, other = torch.full((rows,), float(number)), torch.arange(float(columns))
        assert function(one, other).tolist() == (rows * number * other).tolist()
    assert [graph.replays for graph in captures] == [2, 2]


def test_a_cpu_replays_nothing():
    assert replayed(layer, CPU) is layer
