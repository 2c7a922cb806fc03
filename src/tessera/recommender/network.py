"""A T5 (arXiv 1910.10683) computed from the weights of a `transformers` model, with little but the matrix products.

The model stays what `from_pretrained` loads, and its own forward pass gives the same numbers; this one is faster:
queries, keys and values come from one product, what follows a product changes its result in place, and dropout draws
16 random bits an element where `torch` on a CPU draws a float one by one, which takes longer than the products. Feed-
forward layers are those of the paper, with a ReLU.

Letters: B sources, R samples of each, T source tokens, T' target tokens, D width of the model, H heads, d width of a
head.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

from tessera.products import linear
from tessera.recommender.positions import ItemPositions
from tessera.recommender.vocabulary import PAD

#: Added to the score of what must not be attended to.
HIDDEN = torch.finfo(torch.float32).min

#: Random bits that decide about one element: a share is true to 1 / 65,536.
BITS = 16


class Encoded(NamedTuple):
    """What the encoder makes of sources."""

    states: Tensor  # (B, T, D)
    hidden: Tensor  # (B, 1, 1, T) HIDDEN where the source is padding, 0 elsewhere


class Network:
    """The model's layers, with its dropout where the model is in training mode."""

    def __init__(self, model: T5ForConditionalGeneration) -> None:
        config: Any = model.config
        self.embedding: Tensor = model.shared.weight
        self.output: Tensor = model.lm_head.weight
        self.device: torch.device = model.device
        self.encoder: Any = model.encoder
        self.decoder: Any = model.decoder
        self.item_positions: ItemPositions | None = getattr(model.encoder, "item_positions", None)
        self.head_width: int = config.d_kv
        self.scale: float = config.d_model**-0.5 if config.scale_decoder_outputs else 1.0
        self.dropout: float = config.dropout_rate if model.training else 0.0

    def encode(self, source: Tensor) -> Encoded:
        """Return the encoder's states of source (B, T), padded with PAD."""
        hidden = self.hidden(source)
        bias = self.source_bias(source) + hidden  # (B, H, T, T)
        states = self.embed(source)
        for block in self.encoder.block:
            attention, feed_forward = block.layer
            states = self._attend_to_itself(attention, states, bias)
            states = self.feed_forward(feed_forward, states)
        return Encoded(dropped(normed(states, self.encoder.final_layer_norm), self.dropout), hidden)

    def hidden(self, source: Tensor) -> Tensor:
        """Return what hides the padding of source (B, T), (B, 1, 1, T)."""
        return torch.zeros(source.shape, device=source.device).masked_fill_(source == PAD, HIDDEN)[:, None, None]

    def decode(self, tokens: Tensor, encoded: Encoded) -> Tensor:
        """Return what stands before the output layer (B R, T', D) for the decoder's inputs tokens (B R, T').

        Rows b R ... b R + R - 1 read source b.
        """
        length = tokens.shape[1]
        future = torch.full((length, length), HIDDEN, device=tokens.device).triu(1)
        bias = relative_bias(self.decoder, length) + future  # (1, H, T', T')
        states = self.embed(tokens)
        for block in self.decoder.block:
            past, source, feed_forward = block.layer
            states = self._attend_to_itself(past, states, bias)
            states = self.attend_to_source(source, states, self.keys_and_values(source, encoded), encoded.hidden)
            states = self.feed_forward(feed_forward, states)
        return self.finished(states)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings (B, T, D) of tokens (B, T)."""
        return dropped(nn.functional.embedding(tokens, self.embedding), self.dropout)

    def finished(self, states: Tensor) -> Tensor:
        """Return what the output layer reads for the last decoder layer's states (B, T', D)."""
        return dropped(normed(states, self.decoder.final_layer_norm), self.dropout) * self.scale

    def logits(self, finished: Tensor) -> Tensor:
        """Return the logits (B, T', V) of all tokens."""
        return linear(finished, self.output)

    def queries_keys_values(self, layer: Any, states: Tensor) -> list[Tensor]:
        """Return queries, keys and values, (B, H, T, d) each, of a self-attention layer for its input (B, T, D)."""
        attention = layer.SelfAttention
        weights = torch.cat([attention.q.weight, attention.k.weight, attention.v.weight])
        return self._heads(linear(normed(states, layer.layer_norm), weights), parts=3)

    def keys_and_values(self, layer: Any, encoded: Encoded) -> list[Tensor]:
        """Return keys and values, (B, H, T, d) each, of a cross-attention layer: they belong to the source alone."""
        weights = torch.cat([layer.EncDecAttention.k.weight, layer.EncDecAttention.v.weight])
        return self._heads(linear(encoded.states, weights), parts=2)

    def attend_to_source(self, layer: Any, states: Tensor, keys_and_values: list[Tensor], hidden: Tensor) -> Tensor:
        """Return states (B R, T', D) after a cross-attention layer; keys and values are of B sources."""
        attention = layer.EncDecAttention
        queries = linear(normed(states, layer.layer_norm), attention.q.weight)
        together = queries.reshape(len(hidden), -1, queries.shape[2])  # (B, R T', H d)
        attended = self.attended(*self._heads(together, parts=1), *keys_and_values, bias=hidden)
        return self.added(states, attended.view_as(queries), attention.o)

    def attended(self, queries: Tensor, keys: Tensor, values: Tensor, *, bias: Tensor) -> Tensor:
        """Return the attended values (B, T', H * d); bias is added to the scores, which T5 does not scale."""
        scores = (queries @ keys.transpose(2, 3)).add_(bias)
        weights = dropped(scores.softmax(dim=-1, dtype=torch.float32), self.dropout)
        return (weights.to(values.dtype) @ values).transpose(1, 2).flatten(2)

    def added(self, states: Tensor, inner: Tensor, output: nn.Linear, *, factor: float = 1.0) -> Tensor:
        """Return states plus what the layer output makes of inner times factor, after dropout."""
        return states + dropped(linear(inner, output.weight), self.dropout, factor=factor)

    def feed_forward(self, layer: Any, states: Tensor) -> Tensor:
        """Return states (B, T, D) after a feed-forward layer."""
        dense = layer.DenseReluDense
        inner = linear(normed(states, layer.layer_norm), dense.wi.weight)
        kept, factor = rectified(inner, self.dropout)
        return self.added(states, kept, dense.wo, factor=factor)

    def source_bias(self, source: Tensor) -> Tensor:
        """Return what the encoder adds to the scores for the places of tokens (B, T): (1 or B, H, T, T)."""
        if self.item_positions is None:
            return relative_bias(self.encoder, source.shape[1])
        bias: Tensor = self.item_positions(self.encoder.block[0].layer[0].SelfAttention, source)
        return bias

    def _attend_to_itself(self, layer: Any, states: Tensor, bias: Tensor) -> Tensor:
        attended = self.attended(*self.queries_keys_values(layer, states), bias=bias)
        return self.added(states, attended, layer.SelfAttention.o)

    def _heads(self, states: Tensor, *, parts: int) -> list[Tensor]:
        """(B, T, parts * H * d) -> parts times (B, H, T, d)."""
        split = states.unflatten(2, (parts, -1, self.head_width))
        return [part.transpose(1, 2) for part in split.unbind(2)]


def relative_bias(stack: Any, length: int) -> Tensor:
    """Return what a stack adds to the scores of the last length tokens for their distance, (1, H, length, length)."""
    bias: Tensor = stack.block[0].layer[0].SelfAttention.compute_bias(length, length)
    return bias


def normed(states: Tensor, norm: Any) -> Tensor:
    """Return states (..., D) over their root mean square, times the weights of norm."""
    return nn.functional.rms_norm(states, norm.weight.shape, norm.weight, norm.variance_epsilon)


def dropped(states: Tensor, share: float, *, factor: float = 1.0) -> Tensor:
    """Return states times factor with a random share of them 0 and the others so much larger."""
    if not share:
        return states
    if states.device.type != "cpu":
        kept = nn.functional.dropout(states, share)
        return kept if factor == 1 else kept * factor
    return states * _kept(states, share).mul_(factor / (1 - share))


def rectified(inner: Tensor, share: float) -> tuple[Tensor, float]:
    """Return max(0, inner), in place, a random share of it 0, and the factor by which the others have yet to grow."""
    if inner.device.type != "cpu":
        return dropped(inner.relu_(), share), 1.0
    kept: Tensor = _KeptReLU.apply(inner, share)
    return kept, 1 / (1 - share)


class _KeptReLU(torch.autograd.Function):
    """max(0, x) with a random share of the results 0, in place; the others are not made larger."""

    @staticmethod
    def forward(ctx: Any, inner: Tensor, share: float) -> Tensor:
        inner.relu_()
        if share:
            inner.mul_(_kept(inner, share))
        ctx.mark_dirty(inner)
        ctx.save_for_backward(inner)
        return inner

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradients[0], kept, 0), None


def _kept(like: Tensor, share: float) -> Tensor:
    """Return a tensor on the CPU like `like` that is 0 for a random share of its elements and 1 for the others."""
    words = torch.empty(-(-like.numel() * BITS // 64), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    bits = words.view(torch.int16)[: like.numel()].view(like.shape)
    is_kept = bits >= round(share * 2**BITS) - 2 ** (BITS - 1)
    return is_kept.view(torch.int8).to(like.dtype)  # by way of int8, from which the conversion is fast
