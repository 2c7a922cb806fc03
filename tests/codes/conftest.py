"""A small catalogue whose items fall into clusters, in as many modalities as a test wants."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tessera.codes.fitting import Schedule
from tessera.codes.losses import ABSENT, Objective
from tessera.codes.quantizer import Architecture, CrossModalQuantizer

CPU = torch.device("cpu")


class Shop(NamedTuple):
    vectors: dict[str, torch.Tensor]
    labels: dict[str, torch.Tensor]

    def architecture(self, **changes) -> Architecture:
        widths = {modality: matrix.shape[1] for modality, matrix in self.vectors.items()}
        known = {
            "method": "rqvae",
            "levels": 3,
            "codebook_size": 8,
            "latent_dim": 4,
            "hidden": (16,),
            "projection": False,
        }
        return Architecture(**{**known, "widths": widths, **changes})


@pytest.fixture
def shop() -> Callable[..., Shop]:
    """Return `shop(modalities, items=..., absent=...)`: 6 clusters a modality; the first items of the last lack it."""

    def make(modalities=("text", "image"), *, items=120, absent=0, seed=0, clusters=6) -> Shop:
        draw = np.random.default_rng(seed)
        vectors, labels = {}, {}
        for number, modality in enumerate(modalities):
            width = 10 + number
            centres = draw.normal(size=(clusters, width)) * 3
            label = draw.integers(0, clusters, size=items)
            matrix = centres[label] + draw.normal(size=(items, width)) + 5
            vectors[modality] = torch.tensor(matrix, dtype=torch.float32)
            labels[modality] = torch.tensor(label)
        if absent:
            last = modalities[-1]
            vectors[last][:absent] = vectors[last][absent:].mean(0)
            labels[last][:absent] = ABSENT
        return Shop(vectors, labels)

    return make


@pytest.fixture
def objective() -> Callable[..., Objective]:
    def make(**changes) -> Objective:
        known = {"alpha": 0.25, "lambda_con": 0.1, "con_start_level": 1, "lambda_align": 0.001}
        off = {"lambda_cf": 0.0, "lambda_diversity": 0.0, "diversity_clusters": 3}
        return Objective(**{**known, "temperature": 0.1, "similarity": "cosine", **off, **changes})

    return make


@pytest.fixture
def schedule() -> Callable[..., Schedule]:
    def make(**changes) -> Schedule:
        known = {"epochs": 3, "batch_size": 50, "lr": 1e-3, "weight_decay": 1e-4}
        off = {"sinkhorn_epsilon": 0.0, "sinkhorn_iterations": 50}
        return Schedule(**{**known, "initialisation": "kmeans", "replace_dead_after": 2, **off, **changes})

    return make


@pytest.fixture
def weights() -> Callable[[CrossModalQuantizer], list[torch.Tensor]]:
    """Return everything that a quantizer has learned, in order."""
    return lambda quantizer: [tensor.clone() for tensor in quantizer.state_dict().values()]
