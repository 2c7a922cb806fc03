"""Learn a quantizer from the vectors and pseudo-labels of all items."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal, NamedTuple

import polars as pl
import torch
from torch import Tensor

from tessera.codes.losses import ABSENT, Known, Losses, Neighbours, Objective, identifier_loss, positives
from tessera.codes.quantizer import (
    Architecture,
    CrossModalQuantizer,
    Quantized,
    initialise_layers,
)
from tessera.codes.rows import Collaborative, Rows, blocks_of, moments, rows_in_block
from tessera.codes.uniform import Sinkhorn, uniform_codes
from tessera.errors import DataError
from tessera.kmeans import kmeans, nearest
from tessera.residual import Assignment, dead_codes, replace_codes, residual_kmeans

Initialisation = Literal["kmeans", "random"]

#: Takes the epochs and gives them back one by one, telling the user how far the training is.
Progress = Callable[[Iterable[int]], Iterable[int]]

#: The k-means of codebooks: items a code that it sees (the bound that Faiss uses).
POINTS_PER_CODE = 256

#: The clusters of a level's codes: Lloyd's iterations at most, as published, and how evenly codes then fall into them:
#: of 256 codes and 10 clusters, a cluster got 16 to 51 (random codes of 16 features, 20 draws).
CLUSTER_ITERATIONS = 10
CLUSTER_SINKHORN = Sinkhorn(epsilon=0.01, iterations=50)

#: Vectors that take at most this share of a GPU's free memory are kept there.
RESIDENT_SHARE = 0.5


@dataclass(frozen=True)
class Schedule:
    """How to learn, named as in params.yaml.

    With a sinkhorn_epsilon above 0 the last level's codes are uniform over each batch (see `uniform`); in the end every
    item has the nearest codes all the same, as published.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    initialisation: Initialisation
    replace_dead_after: int
    sinkhorn_epsilon: float
    sinkhorn_iterations: int


class Fitted(NamedTuple):
    """A trained quantizer and how its training went."""

    quantizer: CrossModalQuantizer
    history: pl.DataFrame  # one row an epoch: every loss term, and the codes used and replaced by modality and level


class _Batch(NamedTuple):
    """Some items, on the device."""

    vectors: dict[str, Tensor]  # modality -> (B, D)
    labels: dict[str, Tensor]  # modality -> (B,)
    draws: dict[tuple[str, str], Tensor]  # ordered pair of modalities -> (B,) uniform in [0, 1)
    known: Known | None


def fit(
    vectors: Mapping[str, Rows],
    labels: Mapping[str, Tensor],
    *,
    architecture: Architecture,
    objective: Objective,
    schedule: Schedule,
    generator: torch.Generator,
    device: torch.device,
    progress: Progress = iter,
    collaborative: Collaborative | None = None,
) -> Fitted:
    """Return the quantizer of architecture that fits vectors (N, D) and labels (N,) of every modality.

    There may be labels of further modalities, whose codes are learned elsewhere: L_con pairs items by them too.
    A label is losses.ABSENT where the item lacks the modality; such an item gets codes like every other, but takes
    no part in L_con and L_align. `generator` belongs to the CPU, whatever the device. `rkmeans` learns nothing by
    epochs: its history is one look at the result. `collaborative` vectors are looked at if lambda_cf is above 0; they
    are as wide as the codes, as published: what a projection between them would learn, the codes need not.

    Raises DataError where vectors and labels do not fit each other or are not finite, where there are no collaborative
    vectors to learn from, and where the loss leaves the finite numbers.
    """
    _require_fitting(vectors, labels, architecture)
    if architecture.method == "rkmeans":
        objective = replace(objective, lambda_con=0.0, lambda_align=0.0, lambda_cf=0.0, lambda_diversity=0.0)
    known = _known(collaborative, vectors, architecture) if objective.lambda_cf > 0 else None
    quantizer = CrossModalQuantizer(architecture)
    initialise_layers(quantizer, generator=generator)
    for modality in quantizer.modalities:
        standard = moments(vectors[modality], modality, present=labels[modality] != ABSENT)
        quantizer.of(modality).centre.copy_(standard.centre)
        quantizer.of(modality).scale.copy_(standard.deviation)
    quantizer.to(device)
    items = _Items(quantizer.modalities, vectors, labels, device=device, known=known)
    for modality in quantizer.modalities:
        _place_codes(quantizer, modality, items, schedule.initialisation, generator=generator)
    if architecture.method == "rkmeans":
        rows = [_look(quantizer, items, objective=objective, schedule=schedule, generator=generator)]
    else:
        rows = list(_epochs(quantizer, items, progress, objective=objective, schedule=schedule, generator=generator))
    return Fitted(quantizer.eval(), _history(rows))


class _Items:
    """The vectors and labels of all N items, near enough to the device to be drawn from."""

    def __init__(
        self,
        modalities: tuple[str, ...],
        vectors: Mapping[str, Rows],
        labels: Mapping[str, Tensor],
        *,
        device: torch.device,
        known: Known | None = None,
    ) -> None:
        self.device = device
        self.vectors = {modality: vectors[modality] for modality in modalities}
        self.home = torch.device("cpu")  # where the numbers of rows go that are to be read
        if _fit_on(device, self.vectors.values()):
            self.vectors = {modality: _moved(rows, device) for modality, rows in self.vectors.items()}
            self.home = device
        self.labels = {modality: numbers.to(device) for modality, numbers in labels.items()}
        self.known = None if known is None else Known(*(part.to(device) for part in known))
        self.count = self.vectors[modalities[0]].shape[0]

    def rows(self, modality: str, rows: Tensor) -> Tensor:
        """Return some rows (B,) of the vectors of a modality, on the device."""
        return self.vectors[modality][rows.to(self.home)].to(self.device, non_blocking=True)

    def batches(self, size: int, *, generator: torch.Generator) -> Iterator[_Batch]:
        """Yield all items in a new order, in the fewest batches of at most size items, equal to within one item."""
        pairs = tuple(permutations(self.labels, 2))
        draws = torch.rand(len(pairs), self.count, generator=generator).to(self.device)
        order = torch.randperm(self.count, generator=generator)
        to_read, here = (order.to(place).tensor_split(-(-self.count // size)) for place in (self.home, self.device))
        start = 0
        for read, rows in zip(to_read, here, strict=True):
            end = start + len(rows)
            yield _Batch(
                {m: self.rows(m, read) for m in self.vectors},
                {m: labels[rows] for m, labels in self.labels.items()},
                {pair: draws[row, start:end] for row, pair in enumerate(pairs)},
                None if self.known is None else Known(*(part[rows] for part in self.known)),
            )
            start = end


class _Tally:
    """What an epoch adds up to; its numbers stay on the device, so that no step waits for them."""

    def __init__(self, quantizer: CrossModalQuantizer, device: torch.device) -> None:
        shape = (quantizer.architecture.levels, quantizer.architecture.codebook_size)
        self.used = {m: torch.zeros(shape, dtype=torch.bool, device=device) for m in quantizer.modalities}
        self.sums: dict[str, Tensor] = {}

    def add(self, quantized: Mapping[str, Quantized], losses: Losses) -> None:
        """Count a batch in."""
        items = len(next(iter(quantized.values())).codes)
        weighted = torch.stack(list(losses.terms.values())) * items
        for name, value in zip(losses.terms, weighted, strict=True):
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        for modality, used in self.used.items():
            used.scatter_(1, quantized[modality].codes.T, value=True)

    def row(self, items: int) -> dict[str, Tensor]:
        """Return the mean of every term over items, and how many codes each level used."""
        return {name: value / items for name, value in self.sums.items()} | _by_level("used", self.used)


def _epochs(
    quantizer: CrossModalQuantizer,
    items: _Items,
    progress: Progress,
    *,
    objective: Objective,
    schedule: Schedule,
    generator: torch.Generator,
) -> Iterator[dict[str, Tensor]]:
    """Train, and yield the history's row after each epoch."""
    optimizer = torch.optim.AdamW(
        quantizer.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay, fused=True
    )
    shape = (quantizer.architecture.levels, quantizer.architecture.codebook_size)
    unused = {m: torch.zeros(shape, dtype=torch.int64, device=items.device) for m in quantizer.modalities}
    last = _last_level(schedule)
    quantizer.train()
    for _ in progress(range(schedule.epochs)):
        tally = _Tally(quantizer, items.device)
        clusters = _clusters(quantizer, objective, generator=generator)
        for batch in items.batches(schedule.batch_size, generator=generator):
            quantized = quantizer(batch.vectors, last=last)
            losses = identifier_loss(
                quantized,
                batch.labels,
                batch.draws,
                objective=objective,
                known=batch.known,
                neighbours=_neighbours(quantizer, clusters, generator=generator),
            )
            optimizer.zero_grad(set_to_none=True)
            losses.total.backward()
            optimizer.step()
            tally.add(quantized, losses)
        dead = {m: dead_codes(unused[m], used, limit=schedule.replace_dead_after) for m, used in tally.used.items()}
        for m, marks in dead.items():
            replace_codes(quantizer.of(m).codebooks, marks, quantized[m].residuals, generator=generator)
        yield tally.row(items.count) | _by_level("replaced", dead)


def _last_level(schedule: Schedule) -> Assignment:
    if schedule.sinkhorn_epsilon == 0:
        return nearest
    return functools.partial(uniform_codes, sinkhorn=Sinkhorn(schedule.sinkhorn_epsilon, schedule.sinkhorn_iterations))


@torch.no_grad()
def _clusters(quantizer: CrossModalQuantizer, objective: Objective, *, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the cluster (L, M) of each code of each modality; nothing where L_Div has no weight.

    LETTER clusters the codes of a level by k-means with clusters of 10 to 60 of its 256 codes, anew each epoch. Here
    plain k-means finds the centres, and the codes fall to them uniformly: clusters of about M over their number.
    """
    if objective.lambda_diversity == 0:
        return {}
    return {m: _balanced(quantizer.of(m).codebooks.detach(), objective, generator) for m in quantizer.modalities}


def _balanced(codebooks: Tensor, objective: Objective, generator: torch.Generator) -> Tensor:
    grouped = functools.partial(
        kmeans,
        size=objective.diversity_clusters,
        starts=1,
        iterations=CLUSTER_ITERATIONS,
        tolerance=0.0,
        generator=generator,
    )
    return torch.stack([uniform_codes(c, grouped(c).centres, sinkhorn=CLUSTER_SINKHORN) for c in codebooks])


def _neighbours(
    quantizer: CrossModalQuantizer, clusters: Mapping[str, Tensor], *, generator: torch.Generator
) -> dict[str, Neighbours]:
    """Return for each code a random other one of its cluster, by clusters (L, M) of each modality."""
    found = {}
    for modality, numbers in clusters.items():
        draws = torch.rand(numbers.shape, generator=generator).to(numbers.device)
        targets = torch.stack([positives(*level) for level in zip(numbers, draws, strict=True)])
        found[modality] = Neighbours(quantizer.of(modality).codebooks, targets)
    return found


@torch.no_grad()
def _look(
    quantizer: CrossModalQuantizer,
    items: _Items,
    *,
    objective: Objective,
    schedule: Schedule,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return the history's row of an epoch in which nothing is learned."""
    tally = _Tally(quantizer, items.device)
    for batch in items.batches(schedule.batch_size, generator=generator):
        quantized = quantizer(batch.vectors)
        tally.add(quantized, identifier_loss(quantized, batch.labels, batch.draws, objective=objective))
    return tally.row(items.count)


@torch.no_grad()
def _place_codes(
    quantizer: CrossModalQuantizer,
    modality: str,
    items: _Items,
    initialisation: Initialisation,
    *,
    generator: torch.Generator,
) -> None:
    """Give a modality its first codebooks (L, M, d): k-means of the first residuals, or uniform in +-1/M.

    The k-means see at most POINTS_PER_CODE items a code, drawn at random.
    """
    part, size = quantizer.of(modality), quantizer.architecture.codebook_size
    if quantizer.architecture.method == "rqvae" and initialisation == "random":
        drawn = torch.rand(part.codebooks.shape, generator=generator)
        part.codebooks.copy_((2 * drawn - 1) / size)
        return
    sample = torch.randperm(items.count, generator=generator)[: POINTS_PER_CODE * size]
    blocks = sample.split(rows_in_block(max(part.widths)))
    points = torch.cat([part.latents(items.rows(modality, rows)) for rows in blocks])
    part.codebooks.copy_(residual_kmeans(points, levels=len(part.codebooks), size=size, generator=generator))


def _known(collaborative: Collaborative | None, vectors: Mapping[str, Rows], architecture: Architecture) -> Known:
    """Return the collaborative vectors of all items, standardised as a modality's are: the weight has one meaning.

    A shift of them all would not change L_CF with inner products; their scale, which is that of another model, would.
    """
    items, width = vectors[next(iter(architecture.widths))].shape[0], architecture.latent_dim
    found = "none" if collaborative is None else f"vectors of shape {tuple(collaborative.vectors.shape)}"
    if collaborative is None or collaborative.vectors.shape != (items, width):
        raise DataError(
            f"quant.lambda_cf: expected collaborative vectors of {items} items, {width} wide as quant.latent_dim says, "
            f"to learn from where it is above 0, found {found}"
        )
    known = moments(collaborative.vectors, "collaborative", present=collaborative.present)
    moved = _moved(collaborative.vectors, collaborative.present.device)
    return Known((moved - known.centre.to(moved)) / known.deviation.to(moved), collaborative.present)


def _require_fitting(vectors: Mapping[str, Rows], labels: Mapping[str, Tensor], architecture: Architecture) -> None:
    """Raise DataError unless every modality has vectors of its width and labels, all for the same number of items."""
    for modality in architecture.widths:
        if modality not in vectors or modality not in labels:
            missing = "labels" if modality in vectors else "vectors"
            raise DataError(f"{modality}: expected vectors and labels, found no {missing}")
    items = vectors[next(iter(architecture.widths))].shape[0]
    for modality, width in architecture.widths.items():
        found, labelled = tuple(vectors[modality].shape), len(labels[modality])
        if found != (items, width) or labelled != items:
            raise DataError(
                f"{modality}: expected {items} vectors of width {width} and as many labels, "
                f"found vectors of shape {found} and {labelled} labels"
            )


def _fit_on(device: torch.device, vectors: Iterable[Rows]) -> bool:
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return sum(math.prod(rows.shape) for rows in vectors) * torch.float32.itemsize <= RESIDENT_SHARE * free


def _moved(vectors: Rows, device: torch.device) -> Tensor:
    """Return all of vectors (N, D) on the device."""
    moved = torch.empty(*vectors.shape, device=device)
    for block in blocks_of(vectors):
        moved[block] = vectors[block].to(device)
    return moved


def _by_level(name: str, marks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the number of marks (L, M) at each level of each modality, named."""
    return {f"{name}_{m}_{level}": count for m, marked in marks.items() for level, count in enumerate(marked.sum(1))}


def _history(rows: list[dict[str, Tensor]]) -> pl.DataFrame:
    """Return the rows as a table, epochs counted from 1; raise DataError where a loss is not finite."""
    numbers = torch.stack([torch.stack([value.float() for value in row.values()]) for row in rows]).cpu()
    table = pl.DataFrame(numbers.numpy(), schema=list(rows[0]))
    table = table.with_columns(pl.col("^(used|replaced)_.*$").cast(pl.Int64)).with_row_index("epoch", offset=1)
    diverged = table.filter(~pl.col("total").is_finite())
    if not diverged.is_empty():
        raise DataError(
            f"quant.lr: expected a rate at which the loss stays finite, found {diverged['total'][0]} "
            f"in epoch {diverged['epoch'][0]}"
        )
    return table
