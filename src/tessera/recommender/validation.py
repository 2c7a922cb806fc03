"""What early stopping looks at: the loss on validation samples, and where the validation items rank."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl
import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from tessera.recommender.batches import Rows, Samples, batches_by_length, samples_of
from tessera.recommender.losses import token_losses
from tessera.recommender.metrics import discounted_hits, hits, ranks_in
from tessera.recommender.ranking import Share, rank
from tessera.recommender.readers import reader_of
from tessera.recommender.targets import of_some_users
from tessera.recommender.trie import Trie, build_trie
from tessera.recommender.vocabulary import PAD, Tokens
from tessera.tasks import Task

MONITOR_CUTOFF = 10
"""Items in a ranking for early stopping: hr@10 and ndcg@10."""


class RankingTask(NamedTuple):
    """Users to rank items for in one modality, S of them."""

    trie: Trie
    source: Rows
    targets: Tensor  # (S,) items


class Validation(NamedTuple):
    """All that is looked at between epochs."""

    samples: Samples
    rankings: tuple[RankingTask, ...]


def validation_on(
    corpus: pl.DataFrame, tokens: Mapping[str, Tokens], tasks: Sequence[Task], *, users: int
) -> Validation:
    """Return the validation of at most users users, taken at even distances, from the corpus table of that split.

    tokens maps a modality to the tokens (N, L) of all items.
    """
    looked_at = of_some_users(corpus.lazy(), most=users)
    rankings = []
    for task in tasks:
        if task.is_recommendation:
            rows = samples_of(looked_at.filter(pl.col("task") == str(task)))
            rankings.append(RankingTask(build_trie(tokens[task.target]), rows.source, rows.items))
    return Validation(samples_of(looked_at), tuple(rankings))


@torch.inference_mode()
def loss_sums(
    model: T5ForConditionalGeneration, samples: Samples, share: Share, *, batch_size: int, tries: Sequence[Trie] = ()
) -> Tensor:
    """Return the sums (2,) of -log p over the target tokens of this share of samples, and of those tokens.

    tries, one for each of the samples' names, are those of token_losses.
    """
    sums, mine = torch.zeros(2, device=model.device), share.of(len(samples.source.lengths))
    for rows in batches_by_length(samples.source.lengths[mine], batch_size=batch_size):
        batch = samples.batch(mine[rows]).to(model.device)
        sums += torch.stack([token_losses(model, batch, tries), (batch.target != PAD).sum()])
    return sums


def hit_sums(
    model: T5ForConditionalGeneration, rankings: Sequence[RankingTask], share: Share, *, batch_size: int
) -> Tensor:
    """Return the sums (3,) of hits, of 1 / log2(rank + 1) and of rows over this share of each ranking's users."""
    sums, reader = torch.zeros(3), reader_of(model)
    for trie, source, targets in rankings:
        mine = share.of(len(targets))
        found = rank(reader, trie, source.take(mine), beams=MONITOR_CUTOFF, batch_size=batch_size, renormalise=True)
        ranks = ranks_in(found.items.numpy(), targets[mine].numpy())
        measured = (hits(ranks, k=MONITOR_CUTOFF), discounted_hits(ranks, k=MONITOR_CUTOFF))
        sums += torch.tensor([*(each.sum() for each in measured), len(mine)])
    return sums
