"""The gradients of a training step, added up over batches and processes; a GPU starts a batch's kernels together.

To start the thousands of small kernels of a batch one by one takes a GPU longer than to run them. A CUDA graph starts
them all at once, for the shapes and the places in memory that it was captured with.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class Gradients:
    """The gradients of some weights, in memory that stays where it is."""

    def __init__(self, weights: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
        """Begin with gradients of 0 for weights, which are on their device already; where they have any, in these."""
        self.weights, self.accelerator = list(weights), accelerator
        self.sums: list[Tensor] = []
        for weight in self.weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            self.sums.append(weight.grad)
        self.clear()

    def add(self, loss: Tensor) -> None:
        """Add those of loss, on which all the weights have a say."""
        torch._foreach_add_(self.sums, torch.autograd.grad(loss, self.weights))

    def meet(self) -> None:
        """Give every process the sums over all of them."""
        if self.accelerator.num_processes == 1:
            return
        together: Tensor = self.accelerator.reduce(torch.cat([each.flatten() for each in self.sums]), "sum")
        for gradient, part in zip(self.sums, together.split([each.numel() for each in self.sums]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def clear(self) -> None:
        """Begin anew with 0."""
        torch._foreach_zero_(self.sums)


class Captured(NamedTuple):
    """A CUDA graph, and where it reads and writes."""

    graph: torch.cuda.CUDAGraph
    arguments: list[Tensor]
    result: Tensor


class Replayed:
    """A function of tensors on a GPU, as a CUDA graph for each of the shapes that its arguments come in.

    The function must not wait for the GPU, and what else it reads or changes must stay where it is. A first call with
    new shapes runs it as it is written, so that what is set up once is; a second captures it. Random numbers are those
    of torch's generator, drawn on as without a graph. The result is overwritten by the next call with such shapes.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.graphs: dict[tuple[torch.Size, ...], Captured | None] = {}
        self.memory = torch.cuda.graph_pool_handle()  # of all graphs, since one is replayed after the other

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Return what function returns for arguments."""
        shapes = tuple(argument.shape for argument in arguments)
        if shapes not in self.graphs:
            self.graphs[shapes] = None
            return self.function(*arguments)
        captured = self.graphs[shapes] or self._captured(arguments)
        self.graphs[shapes] = captured
        for place, argument in zip(captured.arguments, arguments, strict=True):
            place.copy_(argument)
        captured.graph.replay()
        return captured.result

    def _captured(self, arguments: tuple[Tensor, ...]) -> Captured:
        graph, places = torch.cuda.CUDAGraph(), [argument.clone() for argument in arguments]
        with torch.cuda.graph(graph, pool=self.memory):
            result = self.function(*places)
        return Captured(graph, places, result)


def replayed(function: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """Return function as it goes fastest on device: replayed on a GPU, and elsewhere as it is."""
    return Replayed(function) if device.type == "cuda" else function
