"""A transformer that reads a sequence of items, not of codes, and tells the next: SASRec or BERT4Rec.

One network in two kinds. `sasrec` (arXiv 1808.09781) sees what stands before a place and tells what follows it;
`bert4rec` (arXiv 1904.06690) sees both sides and tells what a mask hides, which for a history is a mask after its end.
What is likely is the product of a state with the embedding of every item, both papers' shared embedding (SASRec eq. 6,
BERT4Rec eq. 7, here without the projection and bias before it).

Chosen where the papers differ from each other: layer normalisation before each sublayer, GELU, feed-forward layers of
four times the width. `sasrec` counts places from the oldest item that is read, so that a row is a sample of each of its
beginnings; `bert4rec` from the newest, so that what comes next always has the same place.

Letters: B users of a block, T places, N items, D width.
"""

import json
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tessera.errors import CheckpointError
from tessera.products import linear
from tessera.recommender.batches import Rows
from tessera.recommender.corpus import Histories
from tessera.recommender.lists import Floats

Kind = Literal["sasrec", "bert4rec"]

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"

#: Numbers beside the items': padding, and a mask.
SPECIAL = 2

#: Spread of the embeddings that a training starts from (BERT4Rec, section 4.1).
SPREAD = 0.02

#: Width of a feed-forward layer, in widths of a state (Vaswani et al. 2017).
EXPANSION = 4

#: Histories that are read together.
READ_TOGETHER = 512


class Sizes(NamedTuple):
    """The kind and the shape of an encoder."""

    kind: Kind
    items: int  # N
    max_history: int
    width: int  # D
    layers: int
    heads: int
    dropout: float


class SequenceEncoder(nn.Module):
    """Item and place embeddings, and transformer layers over them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.items = nn.Embedding(sizes.items + SPECIAL, sizes.width)
        self.places = nn.Embedding(sizes.max_history + 1, sizes.width)  # a history, and the mask or target after it
        self.dropout = nn.Dropout(sizes.dropout)
        self.layers = nn.TransformerEncoder(
            _layer(sizes), sizes.layers, norm=nn.LayerNorm(sizes.width), enable_nested_tensor=False
        )
        # torch has copied the one layer: here each is drawn for itself.
        self.layers.layers = nn.ModuleList(_layer(sizes) for _ in range(sizes.layers))

    @property
    def padding(self) -> int:
        """What stands after the end of a shorter row."""
        return self.sizes.items

    @property
    def mask(self) -> int:
        """What hides an item."""
        return self.sizes.items + 1

    def forward(self, rows: Tensor) -> Tensor:
        """Return the states (B, T, D) of rows (B, T) of items, masks, and padding after the end."""
        steps = torch.arange(rows.shape[1], device=rows.device)
        if self.sizes.kind == "sasrec":
            states = self.dropout(self.items(rows) + self.places(steps))
            return self.layers(states, mask=steps > steps[:, None])
        is_padding = rows == self.padding
        from_end = ((~is_padding).sum(dim=1, keepdim=True) - 1 - steps).clamp(min=0)  # (B, T)
        states = self.dropout(self.items(rows) + self.places(from_end))
        return self.layers(states, src_key_padding_mask=is_padding)

    def logits(self, states: Tensor) -> Tensor:
        """Return how likely each item is, (..., N), at states (..., D)."""
        return linear(states, self.items.weight[: self.sizes.items])


def _layer(sizes: Sizes) -> nn.TransformerEncoderLayer:
    """Return a layer with weights drawn anew."""
    width = sizes.width
    return nn.TransformerEncoderLayer(
        width, sizes.heads, EXPANSION * width, sizes.dropout, "gelu", batch_first=True, norm_first=True
    )


def new_encoder(sizes: Sizes, *, seed: int) -> SequenceEncoder:
    """Return an encoder with weights drawn from seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = SequenceEncoder(sizes)
        for embedding in (encoder.items, encoder.places):
            nn.init.normal_(embedding.weight, std=SPREAD)
    return encoder


@torch.inference_mode()
def sequence_scores(encoder: SequenceEncoder, found: Histories) -> Floats:
    """Return the log-probability (B, N) of each item to come after each history of found."""
    encoder.eval()
    device = encoder.items.weight.device
    rows = Rows(torch.from_numpy(found.before.astype(np.int32)), _offsets(found.lengths))
    scores = np.empty((len(found.lengths), encoder.sizes.items))
    for block in torch.arange(len(found.lengths)).split(READ_TOGETHER):
        states = _last_states(encoder, rows.padded(block, filler=encoder.padding).to(device))
        scores[block] = encoder.logits(states).log_softmax(dim=1).cpu().numpy()
    return scores


def _last_states(encoder: SequenceEncoder, rows: Tensor) -> Tensor:
    """Return the states (B, D) that tell what comes after rows (B, T)."""
    lengths = (rows != encoder.padding).sum(dim=1, keepdim=True)  # (B, 1)
    asked = lengths - 1
    if encoder.sizes.kind == "bert4rec":
        rows = nn.functional.pad(rows, (0, 1), value=encoder.padding).scatter(1, lengths, encoder.mask)
        asked = lengths
    return encoder(rows)[torch.arange(len(rows), device=rows.device), asked[:, 0]]


def _offsets(lengths: np.ndarray) -> Tensor:
    return torch.from_numpy(np.append(0, np.cumsum(lengths)))


def save_encoder(encoder: SequenceEncoder, folder: Path) -> None:
    """Write encoder into folder, which exists."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(encoder.sizes._asdict(), indent=2) + "\n")


def load_encoder(folder: Path, *, kind: str, items: int, max_history: int) -> SequenceEncoder:
    """Return the encoder saved in folder, on the CPU and in evaluation mode.

    Raises CheckpointError where there is none, where it is damaged, and where it is of another kind, for another
    number of items, or for histories of another length.
    """
    expected = {"kind": kind, "items": items, "max_history": max_history}
    try:
        document = json.loads((folder / CONFIG).read_text())
        found = {name: document.get(name) for name in expected}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: cannot be read: {error}") from error
    if found != expected:
        raise CheckpointError(f"{folder / CONFIG}: expected an encoder with {expected}, found {found}")
    try:
        encoder = SequenceEncoder(Sizes(**document))
        encoder.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: cannot be loaded: {error}") from error
    return encoder.eval()
