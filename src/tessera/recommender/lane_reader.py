"""The reader for CPUs whose registers hold 16 floats: a T5 by the kernels of `tessera.recommender.lanes`.

The weights of a norm go into those of the layers behind it. Queries, keys and values of the first layers are computed
once a model, for every token: a T5 tells places apart by nothing but a bias between two of them.

Letters: U users, k beams of a user, S slots, T source tokens, T' the next multiple of 16, V tokens of the vocabulary,
R rows, D width of the model, H heads, d width of a head.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

from tessera.recommender import lanes
from tessera.recommender.lanes import LANES, Floats, Shape, flat, lanes_for, panels
from tessera.recommender.network import Network, relative_bias
from tessera.recommender.readers import Paths, fills_lanes

QUERIES_KEYS_VALUES = ("q", "k", "v")

NOT_READY = np.zeros(0, np.float32)
"""Stands for projections that the kernel makes itself."""


class Attention(NamedTuple):
    """The weights of an attention layer, its norm in those of the projection."""

    projection: Floats
    output: Floats

    @classmethod
    def of(cls, norm: Any, attention: Any, names: tuple[str, ...]) -> "Attention":
        """Return those of the layers of attention that names tells, after norm."""
        return cls(_projection(norm, *(getattr(attention, name) for name in names)), panels(attention.o.weight))


class FeedForward(NamedTuple):
    """The weights of a feed-forward layer, its norm in the first of them."""

    widening: Floats
    narrowing: Floats

    @classmethod
    def of(cls, layer: Any) -> "FeedForward":
        """Return those of layer."""
        return cls(_projection(layer.layer_norm, layer.DenseReluDense.wi), panels(layer.DenseReluDense.wo.weight))


class EncoderLayer(NamedTuple):
    """The weights of a layer of the encoder."""

    itself: Attention
    feed_forward: FeedForward


class DecoderLayer(NamedTuple):
    """The weights of a layer of the decoder."""

    past: Attention
    source: Attention
    keys_and_values: Floats
    feed_forward: FeedForward


class Sources(NamedTuple):
    """What a layer of the decoder attends to."""

    keys: Floats  # (U, H, d, T')
    keys_and_values: Floats  # (U, T, 2, H, d)


class LaneReader:
    """A model read by kernels.

    Beside a second copy of the layers' weights it holds 6 H d numbers for each token of the vocabulary.
    """

    def __init__(self, model: T5ForConditionalGeneration) -> None:
        """Lay out the weights of model; raise ValueError where its widths do not fill registers."""
        if not fills_lanes(model):
            raise ValueError(f"expected a T5 of 32 bits whose widths are multiples of {LANES}, found {model.config}")
        config: Any = model.config
        self.network = Network(model)
        self.heads, self.width, self.wide = config.num_heads, config.d_kv, config.d_ff
        self.epsilon: float = config.layer_norm_epsilon
        encoder, decoder = self.network.encoder, self.network.decoder
        with torch.inference_mode():
            self.encoder_layers = [
                EncoderLayer(
                    Attention.of(layer[0].layer_norm, layer[0].SelfAttention, QUERIES_KEYS_VALUES),
                    FeedForward.of(layer[1]),
                )
                for layer in (block.layer for block in encoder.block)
            ]
            self.decoder_layers = [
                DecoderLayer(
                    Attention.of(layer[0].layer_norm, layer[0].SelfAttention, QUERIES_KEYS_VALUES),
                    Attention.of(layer[1].layer_norm, layer[1].EncDecAttention, ("q",)),
                    _projection(encoder.final_layer_norm, layer[1].EncDecAttention.k, layer[1].EncDecAttention.v),
                    FeedForward.of(layer[2]),
                )
                for layer in (block.layer for block in decoder.block)
            ]
            logits, room = self.network.output, lanes_for(len(self.network.output)) - len(self.network.output)
            self.output = panels(nn.functional.pad(logits, (0, 0, 0, room)))
            self.no_token = flat(nn.functional.pad(logits.new_zeros(len(logits)), (0, room), value=-torch.inf))  # (V')
            tokens = self.network.embedding.contiguous()
            self.first_of_encoder, self.first_of_decoder = (
                flat(self.projected(tokens, weights, 3 * self.inner))
                for weights in (self.encoder_layers[0].itself.projection, self.decoder_layers[0].past.projection)
            )  # (V, 3 H d)

    @property
    def inner(self) -> int:
        """How many numbers all heads have together."""
        return self.heads * self.width

    def shape(self, states: Tensor) -> Shape:
        """Return that of states (U, R, D)."""
        users, rows, depth = states.shape
        return Shape(users, rows, depth, self.heads, self.width)

    def begin(self, source: Tensor, *, widths: list[int]) -> "LaneDecoder":
        """Return a decoder after source (U, T), for steps of as many beams as widths say."""
        return LaneDecoder(self, source, widths=widths)

    def log_probabilities(self, finished: Tensor, tokens: Tensor) -> Tensor:
        """Return those of tokens (U, k, W), among all tokens, after finished (U, k, D): before the output layer."""
        if int(tokens.max()) >= len(self.network.output):  # the kernel looks nothing up
            raise IndexError(f"expected tokens below {len(self.network.output)}, found {int(tokens.max())}")
        out = finished.new_empty(tokens.shape)
        lanes.log_probabilities(
            flat(finished), finished.shape[2], self.output, self.no_token, flat(tokens.contiguous()), flat(out)
        )
        return out

    def projected(self, states: Tensor, weights: Floats, columns: int) -> Tensor:
        """Return what weights make of the normed states (..., D): (..., columns)."""
        out = states.new_empty(*states.shape[:-1], columns)
        lanes.project(flat(states), states.shape[-1], weights, columns, self.epsilon, flat(out))
        return out

    def fed_forward(self, layer: FeedForward, states: Tensor) -> Tensor:
        """Return states (..., D) after a feed-forward layer."""
        out = torch.empty_like(states)
        lanes.feed_forward(flat(states), states.shape[-1], self.wide, *layer, self.epsilon, flat(out))
        return out

    def encoded(self, source: Tensor, hidden: Tensor) -> Tensor:
        """Return the encoder's states (U, T, D) of source, before their norm; hidden (U, 1, 1, T) hides padding."""
        bias = _padded(self.network.source_bias(source) + hidden)  # (U, H, T, T')
        states = self.network.embed(source)
        for number, layer in enumerate(self.encoder_layers):
            out = torch.empty_like(states)
            ready = NOT_READY if number else self.first_of_encoder
            lanes.attend_to_itself(
                flat(states),
                self.shape(states),
                *layer.itself,
                ready,
                flat(source),
                flat(bias),
                self.epsilon,
                flat(out),
            )
            states = self.fed_forward(layer.feed_forward, out)
        return states

    def sources(self, layer: DecoderLayer, encoded: Tensor) -> Sources:
        """Return what layer attends to of the encoder's states (U, T, D)."""
        users, length, _ = encoded.shape
        both = self.projected(encoded, layer.keys_and_values, 2 * self.inner)
        keys = encoded.new_empty(users, self.heads, self.width, lanes_for(length))
        lanes.turn_keys(flat(both), self.shape(encoded), flat(keys))
        return Sources(flat(keys), flat(both))


class LaneDecoder:
    """The decoder by kernels: a beam attends to the slots of its path alone."""

    def __init__(self, reader: LaneReader, source: Tensor, *, widths: list[int]) -> None:
        if not source.shape[1]:
            raise ValueError("expected sources of at least one token, found none")
        self.reader, source = reader, source.long().contiguous()
        hidden = reader.network.hidden(source)
        encoded = reader.encoded(source, hidden)
        self.hidden = flat(_padded(hidden))  # (U, T')
        self.sources = [reader.sources(layer, encoded) for layer in reader.decoder_layers]
        distances = relative_bias(reader.network.decoder, len(widths))[0, :, -1]
        self.distances = flat(distances.contiguous())  # (H, steps)
        self.paths = Paths(source, widths=widths)
        room = len(source) * self.paths.room * reader.inner
        self.memory = [
            [np.empty(room, np.float32) for _ in range(2)] for _ in reader.decoder_layers
        ]  # keys and values (U, S, H * d) each

    def step(self, tokens: Tensor) -> Tensor:
        """Return what stands before the output layer, (U, k, D), after one more token (U, k) of each beam."""
        reader, tokens = self.reader, tokens.contiguous()
        first = self.paths.enter(tokens.shape[1])
        paths = flat(self.paths.slots)
        states = reader.network.embed(tokens)
        shape = reader.shape(states)
        for number, (layer, source, memory) in enumerate(
            zip(reader.decoder_layers, self.sources, self.memory, strict=True)
        ):
            ready = NOT_READY if number else reader.first_of_decoder
            after_past, after_source = torch.empty_like(states), torch.empty_like(states)
            lanes.attend_to_past(
                flat(states), shape, *layer.past, ready, flat(tokens), *memory, first, paths, self.distances,
                reader.epsilon, flat(after_past),
            )  # fmt: skip
            lanes.attend_to_source(
                flat(after_past), shape, *layer.source, *source, self.hidden, reader.epsilon, flat(after_source)
            )
            states = reader.fed_forward(layer.feed_forward, after_source)
        return reader.network.finished(states)

    def keep(self, parents: Tensor) -> None:
        """Go on with the beams parents (U, k'), which may repeat and leave out some."""
        self.paths.keep(parents)


def _projection(norm: Any, *layers: nn.Linear) -> Floats:
    """Return the weights of layers with one input as panels, those of the norm before them in them."""
    return panels(torch.cat([layer.weight for layer in layers]) * norm.weight)


def _padded(bias: Tensor) -> Tensor:
    """Return bias (..., T) as (..., T'), contiguous, with all hidden that is added."""
    length = bias.shape[-1]
    return nn.functional.pad(bias, (0, lanes_for(length) - length), value=-torch.inf).contiguous()
