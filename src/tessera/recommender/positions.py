"""How far apart two tokens of a source are, told twice: in items, and in places within an item (MSCGRec).

A T5 knows how many tokens lie between two, and so has to learn how many codes an item has. MSCGRec (arXiv 2602.03713)
gives the encoder two relative position encodings instead, one across items and one within an item. How they are
combined is not published; here both are biases of the attention and are added. Across items the T5's own buckets
serve, counted in items; within an item every distance has its own bias. Such a model has one table more than a plain
T5, and `transformers` alone does not compute it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tessera.recommender.vocabulary import NO_SLOT, Vocabulary


class ItemPositions(nn.Module):
    """The biases of the encoder's attention by items and by slots, the places that codes have in an item's ID."""

    slots: Tensor

    def __init__(self, vocabulary: Vocabulary, *, heads: int) -> None:
        super().__init__()
        self.register_buffer("slots", torch.from_numpy(vocabulary.slots))  # (V,)
        self.farthest = int(self.slots.max())
        self.tasks = vocabulary.task_tokens
        self.within = nn.Embedding(2 * self.farthest + 1, heads)

    def forward(self, attention: Any, source: Tensor) -> Tensor:
        """Return what is added to the scores (B, H, T, T) of an attention layer that holds the T5's table of biases."""
        items, slots = self.places(source)
        across = attention._relative_position_bucket(
            _distances(items),
            bidirectional=True,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        bias: Tensor = attention.relative_attention_bias(across) + self.within(_distances(slots) + self.farthest)
        return bias.permute(0, 3, 1, 2)

    def places(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each token of source (B, T) which item it belongs to, from 0, and its slot in that.

        An item begins where a slot is not after the one before, and after the token of a task. What has no slot, a mark
        or padding, stands with the token before it: the slots [0, 1, 0, -, 2, 1] are those of items [0, 0, 1, 1, 1, 2].
        """
        slots = self.slots[source]
        has_slot = slots != NO_SLOT
        latest = torch.arange(source.shape[1], device=source.device).where(has_slot, 0).cummax(dim=1).values
        slots = slots.gather(1, latest).clamp(min=0)
        is_task = (source >= self.tasks.start) & (source < self.tasks.stop)
        begins = has_slot[:, 1:] & ((slots[:, 1:] <= slots[:, :-1]) | is_task[:, :-1])
        return nn.functional.pad(begins.long().cumsum(dim=1), (1, 0)), slots


def _distances(places: Tensor) -> Tensor:
    """Return how far each place (B, T) is from each: (B, T, T), positive where the second is after the first."""
    return places[:, None, :] - places[:, :, None]
