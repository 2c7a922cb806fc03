"""The training of the cross-modal quantizer, beside the same network with Python loops for the contrast's positives.

Both train the published network (MACRec) with the same losses, AdamW and batches, an epoch in turn. The peer does as
released code does: it holds all vectors in memory, indexes them, and for each anchor looks up the list of items with
its label and takes one. Ours is `fit` as the stage calls it, its vectors in a file. Both multiply by
`tessera.products`, and have the C library keep freed memory, as the stages do. Given the same random numbers both
choose the same positives, so that the loss of one batch must be the same within 1e-5.

The limit is the matrix rate, measured between the epochs, over the operations of an item: those of the linear layers
(three products each, two in an encoder's first layer, whose input needs no gradient), of the distances to the codes,
and of the products within a batch that contrast and alignment compare. Vectors go to Parquet and from there to `fit`;
the peak memory is that of a process that does nothing but train an epoch on them.
"""

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise, permutations
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import numpy as np
import polars as pl
import torch
import typer
from embeddings import Embeddings
from paper import PAPER
from side_by_side import GIB, Case, Growth, in_own_process, matrix_rate, report
from torch import Tensor

from tessera.artifacts import table_writer
from tessera.codes.fitting import Progress, Schedule, fit
from tessera.codes.losses import (
    Objective,
    alignment_loss,
    contrast_loss,
    identifier_loss,
    reconstruction_loss,
)
from tessera.codes.quantizer import Architecture, CrossModalQuantizer, Quantized, initialise_layers
from tessera.residual import quantization_loss
from tessera.row_files import vector_rows
from tessera.runtime import keep_freed_memory
from tessera.schemas import VECTORS

QUANT = PAPER.quant
OBJECTIVE = Objective(**QUANT.model_dump(include=set(Objective.__dataclass_fields__)))
LABELS = PAPER.pseudo.clusters
CATEGORIES = 600
CPU = torch.device("cpu")

#: Items whose vectors are drawn and written at one time, and by how much the losses of a batch may differ.
PART = 4096
TOLERANCE = 1e-5

#: Shares of the items of the first work of which the growth is measured, and of the largest the memory: of the same
#: widths, so that what grows is due to the items.
SHARES = (0.25, 0.5, 1.0)
MEMORY_SHARES = (0.25, 1.0)


class Work(NamedTuple):
    """How many items there are, and how wide their vectors are."""

    items: int
    widths: dict[str, int]

    @classmethod
    def of(cls, text: str) -> "Work":
        """Return the work that text spells, as in 6250x4096x768."""
        items, *widths = map(int, text.split("x"))
        return cls(items, dict(zip(("text", "image"), widths, strict=True)))

    def part(self, share: float) -> "Work":
        """Return the same with a share of the items."""
        return self._replace(items=max(1, int(share * self.items)))

    def architecture(self) -> Architecture:
        """Return the published network for such vectors."""
        shape = QUANT.levels, QUANT.codebook_size, QUANT.latent_dim, tuple(QUANT.hidden), QUANT.projection
        return Architecture(QUANT.method, dict(self.widths), *shape)

    def paths(self, folder: Path) -> dict[str, Path]:
        """Return where the vectors are."""
        return {name: folder / f"{name}-{self.items}-{width}.parquet" for name, width in self.widths.items()}

    def labels(self) -> dict[str, Tensor]:
        """Return pseudo-labels (N,) of each modality."""
        draw = torch.Generator().manual_seed(1)
        return {modality: torch.randint(LABELS, (self.items,), generator=draw) for modality in self.widths}


DEFAULT = ("6250x4096x768",)
FULL = ("6250x4096x768", "200000x768x768")


def main(
    work: Annotated[list[str] | None, typer.Option(help="ITEMSxWIDTHxWIDTH instead; several times.")] = None,
    batch: Annotated[int, typer.Option(help="Items a step.")] = 2048,
    runs: Annotated[int, typer.Option(help="Epochs of each.")] = 3,
    full: Annotated[bool, typer.Option("--full", help="200,000 items, too.")] = False,
    to: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
) -> None:
    """Compare both on each work."""
    works = [Work.of(each) for each in work or (FULL if full else DEFAULT)]
    largest = max(works, key=lambda each: each.items)
    weighed = [largest.part(share) for share in MEMORY_SHARES]
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peaks = {f"GiB at most, {each.items:,} items": peak(each, folder, batch=batch) / GIB for each in weighed}
        cases = [compared(each, folder, batch=batch, runs=runs) for each in works]
        growth = grown(works[0], folder, batch=batch)
    report("quantize", [cases[0]._replace(facts={**cases[0].facts, **peaks}), *cases[1:]], growth=[growth], to=to)


def compared(work: Work, folder: Path, *, batch: int, runs: int) -> Case:
    """Return the comparison on one work."""
    write_vectors(work, folder)
    peer = Peer(work, folder, batch=batch)
    peer.require_same_loss()
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    rates: list[float] = []

    def in_turn(epochs: Iterable[int]) -> Iterator[int]:
        for epoch in epochs:
            start = time.perf_counter()
            yield epoch
            middle = time.perf_counter()
            peer.epoch()
            seconds["ours"].append(middle - start)
            seconds["peer"].append(time.perf_counter() - middle)
            rates.append(matrix_rate())

    train(work, folder, batch=batch, epochs=runs, progress=in_turn)
    rate, operations = median(rates), operations_of_an_item(work.architecture(), batch=batch)
    return Case(
        f"{work.items:,} items, {' + '.join(map(str, work.widths.values()))}, batch {batch}",
        "items/s",
        peer=work.items / median(seconds["peer"]),
        ours=work.items / median(seconds["ours"]),
        limit=rate / operations,
        facts={
            "seconds of an epoch of ours": median(seconds["ours"]),
            "seconds of an epoch of the peer": median(seconds["peer"]),
            "millions of operations an item": operations / 1e6,
            "GFLOP/s of matrix products": rate / 1e9,
        },
    )


def train(work: Work, folder: Path, *, batch: int, epochs: int, progress: Progress = iter) -> None:
    """Train as the stage does, from Parquet."""
    published = QUANT.model_dump(include=set(Schedule.__dataclass_fields__))
    schedule = Schedule(**published | {"epochs": epochs, "batch_size": batch})
    with vector_rows(work.paths(folder), scratch=folder) as rows:
        fit(
            rows,
            work.labels(),
            architecture=work.architecture(),
            objective=OBJECTIVE,
            schedule=schedule,
            generator=torch.Generator().manual_seed(0),
            device=CPU,
            progress=progress,
        )


def peak(work: Work, folder: Path, *, batch: int) -> int:
    """Return the bytes that a process takes at most which trains an epoch."""
    write_vectors(work, folder)
    spent = in_own_process(train_an_epoch, work, folder, batch)
    for path in work.paths(folder).values():
        path.unlink()
    return spent.peak_bytes


def train_an_epoch(work: Work, folder: Path, batch: int) -> None:
    """Train an epoch: what a process of its own is given to do."""
    train(work, folder, batch=batch, epochs=1)


def grown(work: Work, folder: Path, *, batch: int) -> Growth:
    """Return how the time of our epoch grows with the items."""
    parts, seconds = [work.part(share) for share in SHARES], []
    for part in parts:
        write_vectors(part, folder)
        ends: list[float] = []

        def timed(epochs: Iterable[int], ends: list[float] = ends) -> Iterator[int]:
            for epoch in epochs:
                ends.append(time.perf_counter())
                yield epoch
            ends.append(time.perf_counter())

        train(part, folder, batch=batch, epochs=2, progress=timed)
        seconds.append(min(end - start for start, end in pairwise(ends)))
    return Growth("quantizer, an epoch", "items", [float(part.items) for part in parts], seconds)


def write_vectors(work: Work, folder: Path) -> None:
    """Write the vectors of a work, part by part."""
    for path, width in zip(work.paths(folder).values(), work.widths.values(), strict=True):
        drawn = Embeddings(width=width, categories=CATEGORIES)
        schema = VECTORS | {"vector": pl.Array(pl.Float32, width)}
        with table_writer(path, schema) as write:
            for start in range(0, work.items, PART):
                vectors = drawn.drawn(min(PART, work.items - start))
                items = np.arange(start, start + len(vectors), dtype=np.uint32)
                write(pl.DataFrame({"item": items, "vector": vectors, "present": np.ones(len(items), np.bool_)}))


def operations_of_an_item(architecture: Architecture, *, batch: int) -> float:
    """Return the floating-point operations that a step takes for each of its items."""
    total = 0
    for width in architecture.widths.values():
        layers = [one * other for one, other in pairwise((width, *architecture.hidden, architecture.latent_dim))]
        # Forward, and backward by weights and by inputs: three products in encoder and decoder, less the one whose
        # result would be the gradient of the vectors.
        total += 2 * (6 * sum(layers) - layers[0])
        total += 2 * architecture.levels * architecture.codebook_size * architecture.latent_dim
        total += 3 * 2 * batch * architecture.latent_dim * (architecture.levels - OBJECTIVE.con_start_level)
    pairs = len(architecture.widths) * (len(architecture.widths) - 1) // 2
    return total + 3 * 2 * batch * architecture.latent_dim * pairs


class Peer:
    """The same training as a plain loop over vectors in memory, its positives found item by item."""

    def __init__(self, work: Work, folder: Path, *, batch: int) -> None:
        self.batch = batch
        self.labels = work.labels()
        self.vectors = {
            modality: torch.from_numpy(pl.read_parquet(path)["vector"].to_numpy(writable=True))
            for modality, path in work.paths(folder).items()
        }
        self.draw = torch.Generator().manual_seed(0)
        self.quantizer = CrossModalQuantizer(work.architecture())
        initialise_layers(self.quantizer, generator=self.draw)
        with torch.no_grad():
            for modality in self.quantizer.modalities:
                part = self.quantizer.of(modality)
                part.centre.copy_(self.vectors[modality].mean(0))
                part.scale.copy_((self.vectors[modality] - part.centre).square().mean().sqrt())
                part.codebooks.normal_(std=0.1, generator=self.draw)
        self.optimizer = torch.optim.AdamW(
            self.quantizer.parameters(), lr=QUANT.lr, weight_decay=QUANT.weight_decay, fused=True
        )

    def epoch(self) -> None:
        """Train on every item once."""
        for rows in torch.randperm(len(self.labels["text"]), generator=self.draw).split(self.batch):
            quantized = self.quantizer({modality: vectors[rows] for modality, vectors in self.vectors.items()})
            loss = looped_loss(quantized, self._labels(rows), self._draws(len(rows)))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def require_same_loss(self) -> None:
        """Raise AssertionError unless a batch has the same loss by loops as by ours."""
        rows = torch.arange(min(self.batch, len(self.labels["text"])))
        quantized = self.quantizer({modality: vectors[rows] for modality, vectors in self.vectors.items()})
        labels, draws = self._labels(rows), self._draws(len(rows))
        by_loops = float(looped_loss(quantized, labels, draws))
        ours = float(identifier_loss(quantized, labels, draws, objective=OBJECTIVE).total)
        if abs(ours - by_loops) > TOLERANCE * abs(by_loops):
            raise AssertionError(f"expected the loss of a batch to be {by_loops}, found {ours}")

    def _labels(self, rows: Tensor) -> dict[str, Tensor]:
        return {modality: labels[rows] for modality, labels in self.labels.items()}

    def _draws(self, items: int) -> dict[tuple[str, str], Tensor]:
        return {pair: torch.rand(items, generator=self.draw) for pair in permutations(self.labels, 2)}


def looped_loss(
    quantized: Mapping[str, Quantized], labels: Mapping[str, Tensor], draws: Mapping[tuple[str, str], Tensor]
) -> Tensor:
    """Return the loss of a batch whose items all have every modality."""
    everyone = torch.ones(len(next(iter(labels.values()))), dtype=torch.bool)
    total = torch.zeros(())
    for found in quantized.values():
        total = total + quantization_loss(found.residuals, found.code_vectors, alpha=OBJECTIVE.alpha).sum()
        total = total + reconstruction_loss(found.scaled, found.reconstruction)
    for modality, other in permutations(quantized, 2):
        targets = torch.tensor(looped_positives(labels[other].tolist(), draws[modality, other].tolist()))
        residuals = quantized[modality].residuals[OBJECTIVE.con_start_level :]
        contrast = contrast_loss(residuals, targets, anchors=everyone, candidates=everyone, objective=OBJECTIVE)
        total = total + OBJECTIVE.lambda_con * contrast.sum()
    first, second = (found.summed for found in quantized.values())
    align = alignment_loss(first, second, has_one=everyone, has_other=everyone, objective=OBJECTIVE)
    return total + OBJECTIVE.lambda_align * align


def looped_positives(labels: list[int], draws: list[float]) -> list[int]:
    """Return for each item of a batch another one with its label, as the draws choose; itself where there is none."""
    items_of: dict[int, list[int]] = {}
    for item, label in enumerate(labels):
        items_of.setdefault(label, []).append(item)
    chosen = []
    for item, (label, draw) in enumerate(zip(labels, draws, strict=True)):
        group = items_of[label]
        steps = 1 + min(int(np.float32(draw) * np.float32(len(group) - 1)), len(group) - 2)
        chosen.append(group[(group.index(item) + steps) % len(group)] if len(group) > 1 else item)
    return chosen


if __name__ == "__main__":
    typer.run(main)
