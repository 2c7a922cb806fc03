"""A short training of a tiny model, and whether two of them ended alike."""

import torch

from tessera.recommender.fitting import Fitted, Settings

SETTINGS = Settings(
    loss="softmax",
    modality_masking=0.0,
    lambda_implicit=0.01,
    temperature=0.1,
    alignment_epochs=0,
    alignment_batch_size=64,
    epochs=3,
    batch_size=64,
    accumulation=1,
    lr=0.003,
    warmup=0.1,
    weight_decay=0.01,
    clip_norm=1.0,
    monitor="ndcg@10",
    monitor_every=1,
    patience=10,
    seed=0,
)


def same(one: Fitted, other: Fitted) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
