"""Read sources once and beams' tokens one by one: the T5 as the beam search sees it.

What makes it fast: the encoder runs once a user; the cross-attention's keys and values belong to the user and are
computed once, with the user's beams as the queries; so do the keys and values of earlier tokens, of which a beam is
shown its own (no cache is ever put in another order).

There are two readers with the same results to the rounding of sums: one of `torch`, for every device, and one for CPUs
with registers of 512 bits, `tessera.recommender.lane_reader`. Which one reads depends on the model and the processor.

Letters: U users, k beams of a user, S slots, T source tokens, D width of the model, H heads, d width of a head.
"""

import functools
import os
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from tessera.recommender.network import HIDDEN, Network, relative_bias

LANES: Final = 16
"""Floats in a register of 512 bits: those of `tessera.recommender.lanes`, which is not imported to ask."""


class Decoder(Protocol):
    """The decoder one token at a time, for the beams of U users."""

    def step(self, tokens: Tensor) -> Tensor:
        """Return what stands before the output layer, (U, k, D), after one more token (U, k) of each beam."""
        ...

    def keep(self, parents: Tensor) -> None:
        """Go on with the beams parents (U, k'), which may repeat and leave out some."""
        ...


class Reader(Protocol):
    """A model that reads, without gradients; its weights must stay what they were when the reader was made."""

    network: Network

    def begin(self, source: Tensor, *, widths: list[int]) -> Decoder:
        """Return a decoder after source (U, T), for steps of as many beams as widths say."""
        ...

    def log_probabilities(self, finished: Tensor, tokens: Tensor) -> Tensor:
        """Return those of tokens (U, k, W), among all tokens, after finished (U, k, D): before the output layer."""
        ...


def reader_of(model: T5ForConditionalGeneration) -> Reader:
    """Return what reads by model where it is, for inference."""
    if not suits_lanes(model):
        return TorchReader(model)
    from tessera.recommender.lane_reader import LaneReader  # only now: it brings a compiler

    return LaneReader(model)


def suits_lanes(model: T5ForConditionalGeneration) -> bool:
    """Whether model lies on a CPU with registers of 512 bits, and fills them."""
    return model.device.type == "cpu" and fills_lanes(model) and has_lanes()


def fills_lanes(model: T5ForConditionalGeneration) -> bool:
    """Whether model is one of 32 bits whose widths fill registers of 512."""
    config: Any = model.config
    widths = (config.d_model, config.d_ff, config.d_kv)
    return model.dtype == torch.float32 and not any(width % LANES for width in widths)


@functools.cache
def has_lanes() -> bool:
    """Whether this processor has registers of 512 bits, and Numba may compile for it."""
    may_compile = os.environ.get("NUMBA_DISABLE_JIT", "0") in {"", "0"}
    return may_compile and bool(torch.cpu.get_capabilities().get("avx512_f"))


class Paths:
    """Which tokens each beam came along.

    A slot is a token that has been read: the first step has one a user, the next as many as beams were kept, and so on,
    S in all. What belongs to a token stays in its slot, and the paths tell which slots are a beam's own.
    """

    def __init__(self, source: Tensor, *, widths: list[int]) -> None:
        """Begin after source (U, T), with nothing read yet."""
        self.slots = source.new_empty(len(source), 1, 0)  # (U, k, step), the latest last
        self.room = sum(widths)
        self.read = 0

    def enter(self, beams: int) -> int:
        """Read one more token of each of k = beams; return the first slot of the k."""
        first = self.read
        own = torch.arange(first, first + beams, device=self.slots.device)
        self.slots = torch.cat([self.slots, own[:, None].expand(len(self.slots), -1, 1)], dim=2)
        self.read += beams
        return first

    def keep(self, parents: Tensor) -> None:
        """Go on with the beams parents (U, k')."""
        self.slots = self.slots.gather(1, parents[..., None].expand(-1, -1, self.slots.shape[2]))


class TorchReader:
    """A model read by the operations of `torch`."""

    def __init__(self, model: T5ForConditionalGeneration) -> None:
        self.network = Network(model)

    def begin(self, source: Tensor, *, widths: list[int]) -> "TorchDecoder":
        """Return a decoder after source (U, T), for steps of as many beams as widths say."""
        return TorchDecoder(self.network, source, widths=widths)

    def log_probabilities(self, finished: Tensor, tokens: Tensor) -> Tensor:
        """Return those of tokens (U, k, W), among all tokens, after finished (U, k, D): before the output layer."""
        return self.network.logits(finished).log_softmax(dim=2).gather(2, tokens)


class TorchDecoder:
    """The decoder by the operations of `torch`: beams attend to all slots, those of other paths hidden."""

    def __init__(self, network: Network, source: Tensor, *, widths: list[int]) -> None:
        encoded = network.encode(source)
        self.network, self.hidden = network, encoded.hidden
        self.blocks = [block.layer for block in network.decoder.block]
        self.sources = [
            [part.contiguous() for part in network.keys_and_values(block[1], encoded)] for block in self.blocks
        ]  # keys and values (U, H, T, d) each
        self.bias = relative_bias(network.decoder, len(widths))[0, :, -1:]  # (H, 1, steps) the last one is no distance
        self.steps = torch.arange(len(widths), device=source.device).repeat_interleave(
            torch.tensor(widths, device=source.device), output_size=sum(widths)
        )  # (S,) the step of each slot
        self.paths = Paths(source, widths=widths)
        users, heads, _, width = self.sources[0][0].shape
        self.memory = [
            [part.new_empty(users, heads, self.paths.room, width) for part in pair] for pair in self.sources
        ]  # keys and values (U, H, S, d) each

    def step(self, tokens: Tensor) -> Tensor:
        """Return what stands before the output layer, (U, k, D), after one more token (U, k) of each beam."""
        states = self.network.embed(tokens)
        first = self.paths.enter(tokens.shape[1])
        last, bias = self.paths.read, self._bias()
        for block, source, memory in zip(self.blocks, self.sources, self.memory, strict=True):
            past, from_source, feed_forward = block
            queries, *new = self.network.queries_keys_values(past, states)
            for slots, added in zip(memory, new, strict=True):
                slots[:, :, first:last] = added
            attended = self.network.attended(queries, *(slots[:, :, :last] for slots in memory), bias=bias)
            states = self.network.added(states, attended, past.SelfAttention.o)
            states = self.network.attend_to_source(from_source, states, source, self.hidden)
            states = self.network.feed_forward(feed_forward, states)
        return self.network.finished(states)

    def keep(self, parents: Tensor) -> None:
        """Go on with the beams parents (U, k'), which may repeat and leave out some."""
        self.paths.keep(parents)

    def _bias(self) -> Tensor:
        """Return what is added to the scores of all slots so far, (U, H, k, S)."""
        slots = self.paths.slots
        hidden = torch.full((*slots.shape[:2], self.paths.read), HIDDEN, device=slots.device).scatter_(2, slots, 0)
        distances = self.bias[:, :, self.bias.shape[2] - slots.shape[2] :]  # (H, 1, step + 1)
        return hidden[:, None] + distances[:, :, self.steps[: self.paths.read]]
