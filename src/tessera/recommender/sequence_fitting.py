"""Train a sequence encoder on the training items alone: the next item, or what a mask hides, among all items.

Both kinds are trained with the full softmax cross-entropy over all N items, as BERT4Rec is (arXiv 1904.06690, eq. 8).
The paper of SASRec (arXiv 1808.09781, eq. 7) compares each item with one drawn at random instead, which costs it much
of its quality. Letters: B rows of a batch, T places, N items, A places that are asked for.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from tessera.errors import CheckpointError, DataError
from tessera.recommender.batches import Rows, cut_into_batches
from tessera.recommender.corpus import Histories, ranges
from tessera.recommender.lists import rank_histories
from tessera.recommender.metrics import discounted_hits, ranks_in
from tessera.recommender.sequence_encoder import SequenceEncoder, sequence_scores

#: Items in a ranking for early stopping.
MONITOR_CUTOFF = 10


class Settings(NamedTuple):
    """How to train; the parameters of section sequence that are not sizes."""

    mask: float
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    patience: int


class Fitted(NamedTuple):
    """The trained encoder and one row an epoch of what was measured on the way."""

    encoder: SequenceEncoder
    history: pl.DataFrame
    epoch: int  # the one after which the encoder had these weights
    items: Tensor  # those that the training sequences tell of, ascending


class Questions(NamedTuple):
    """What the encoder reads, and what it is asked for."""

    rows: Tensor  # (B, T)
    asked: Tensor  # (B, T) whether a place is asked for
    answers: Tensor  # (A,) items, in the order of the places


def fit(
    encoder: SequenceEncoder,
    interactions: pl.DataFrame,
    *,
    settings: Settings,
    valid: Histories | None,
    seed: int,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Fitted:
    """Train encoder, where it is, on the training rows of interactions (user, item, position, split).

    valid are the validation samples for early stopping: training ends after settings.patience epochs without a better
    NDCG@10 on them, and the best weights are kept. Without them nothing is looked at but training items, and the last
    weights are kept. Batches, masks and dropout follow from seed. progress wraps the epochs.

    Raises DataError where no user has two training items or valid is empty, and CheckpointError where the loss or a
    weight is no longer a number.
    """
    windows = training_windows(interactions, max_history=encoder.sizes.max_history)
    if valid is not None and not len(valid.targets):
        raise DataError(
            "sequence.patience: expected validation items with a history to look at, found none; with 0 none is needed"
        )
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    history: list[dict[str, float]] = []
    best, best_value, best_epoch = encoder.state_dict(), -math.inf, 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in progress(range(1, settings.epochs + 1)):
            loss = _epoch(encoder, windows, optimizer, settings=settings, generator=generator)
            history.append({"epoch": epoch, "loss": loss})
            if valid is None:
                continue
            history[-1][f"valid_ndcg@{MONITOR_CUTOFF}"] = value = _gain(encoder, valid)
            if value > best_value:
                best = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
                best_value, best_epoch = value, epoch
            if epoch - best_epoch >= settings.patience:
                break
    encoder.load_state_dict(best)
    if not all(weight.isfinite().all() for weight in best.values()):
        raise CheckpointError("sequence encoder: expected finite weights, found others; a lower sequence.lr may help")
    return Fitted(encoder.eval(), pl.DataFrame(history), best_epoch or len(history), windows.values.unique())


def training_windows(interactions: pl.DataFrame, *, max_history: int) -> Rows:
    """Return each user's training items in pieces of max_history + 1, the last first, a piece beginning where one ends.

    So each item but a user's first is told once from up to max_history before it. Items 0..6 with max_history 3 give
    3, 4, 5, 6 and 0, 1, 2, 3.

    Raises DataError where no user has two training items.
    """
    ordered = interactions.filter(pl.col("split") == "train").sort("user", "position")
    lengths = ordered.group_by("user", maintain_order=True).len()["len"].to_numpy().astype(np.int64)
    pieces = -(-(lengths - 1) // max_history)  # (U,) rounded up: none for a user of one item
    if not pieces.sum():
        raise DataError("training sequences: expected at least one of two items, found none")
    starts = np.repeat(np.cumsum(lengths) - lengths, pieces)
    number = ranges(np.zeros_like(pieces), pieces)
    ends = np.repeat(np.cumsum(lengths), pieces) - number * max_history
    starts = np.maximum(starts, ends - max_history - 1)
    items = ordered["item"].to_numpy()[ranges(starts, ends - starts)].astype(np.int32)
    return Rows(torch.from_numpy(items), torch.from_numpy(np.append(0, np.cumsum(ends - starts))))


def questions(encoder: SequenceEncoder, rows: Tensor, *, mask: float, generator: torch.Generator) -> Questions:
    """Return what encoder is asked about rows (B, T) of items, padded after their ends.

    `sasrec`: at each place what follows it (1808.09781, section 3). `bert4rec`: what masks hide (1904.06690, section
    3.6). A row hides each item with probability mask; or, as often as mask says and wherever it would hide none, its
    last item alone, which is what is asked of a history. The paper does not say how many such rows there are.
    """
    if encoder.sizes.kind == "sasrec":
        asked = rows[:, 1:] != encoder.padding
        return Questions(rows[:, :-1], asked, rows[:, 1:][asked])
    is_item = rows != encoder.padding
    draws = torch.rand((len(rows), rows.shape[1] + 1), generator=generator).to(rows.device) < mask
    asked = draws[:, 1:] & is_item
    is_last = torch.arange(rows.shape[1], device=rows.device) == is_item.sum(dim=1, keepdim=True) - 1
    asked = torch.where(draws[:, :1] | ~asked.any(dim=1, keepdim=True), is_last, asked)
    return Questions(rows.masked_fill(asked, encoder.mask), asked, rows[asked])


def _epoch(
    encoder: SequenceEncoder,
    windows: Rows,
    optimizer: torch.optim.Optimizer,
    *,
    settings: Settings,
    generator: torch.Generator,
) -> float:
    """Go through windows once; return the mean cross-entropy of an answer."""
    encoder.train()
    device = encoder.items.weight.device
    total, answers = 0.0, 0
    for batch in cut_into_batches(windows.lengths, batch_size=settings.batch_size, generator=generator):
        rows = windows.padded(batch, filler=encoder.padding).to(device)
        asked = questions(encoder, rows, mask=settings.mask, generator=generator)
        loss = nn.functional.cross_entropy(encoder.logits(encoder(asked.rows)[asked.asked]), asked.answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, answers = total + loss.item() * len(asked.answers), answers + len(asked.answers)
    if not math.isfinite(total):
        raise CheckpointError(f"sequence encoder: expected a finite loss, found {total}; a lower sequence.lr may help")
    return total / answers


def _gain(encoder: SequenceEncoder, valid: Histories) -> float:
    """Return NDCG@10 over the samples of valid."""
    score = partial(sequence_scores, encoder)
    lists = rank_histories(score, valid, items=encoder.sizes.items, length=MONITOR_CUTOFF)
    ranks = ranks_in(lists.items, valid.target_items)
    return float(discounted_hits(ranks, k=MONITOR_CUTOFF).mean())
