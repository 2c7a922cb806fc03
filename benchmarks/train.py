"""Training the T5 of the published size on all six tasks of Instruments: forward, backward, step.

Ours is the training of the stage train_t5 (without the alignment loss, which the peer has not): batches of about equal
length, the network of `tessera.recommender.network`. The peer is `transformers.Trainer` as it is used for this: the
same model and the same small vocabulary, random batches padded to their longest source, dropout, AdamW and clipping
the same. Both run in float32, or with `--precision bf16` under autocast. Ours goes through batches taken at even
distances from an epoch's, sorted by length, so that they stand for the whole epoch; the peer's random batches all do.
Each run has a process of its own, since ours has the C library keep freed memory, as every stage does; what comes
before the first step is not timed. A peer that keeps it too makes 80 samples a second, where it makes 69 without
(medians of three, on the machine of the README).
What comes first takes longer, and is little of a training: ours makes its steps once before they are timed, on a GPU
(`--device cuda`) twice, in which its CUDA graphs are captured, and the peer a first one, while, on a GPU, processes of
their own begin to read its samples.

With `--taught 5` each history has five further targets, whatever these are, as a teacher names them: ours reads it
once for all six, and its batches are of as many histories as the peer's are of samples.

The limit is what the device's matrix rate allows for the products of the model on samples without padding.
"""

import math
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from instruments import MAX_HISTORY, Instruments, instruments
from paper import PAPER
from published import FORWARD_AND_BACKWARD, Vocabularies, decoder_operations, encoder_operations, vocabularies
from side_by_side import Case, Growth, alternate_apart, matrix_rate, median_seconds, report
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from tessera.recommender.batches import Samples, samples_of
from tessera.recommender.corpus import histories, samples
from tessera.recommender.fitting import Settings, Training
from tessera.recommender.losses import softmax_losses
from tessera.recommender.validation import Validation
from tessera.recommender.vocabulary import PAD
from tessera.runtime import accelerator_on, keep_freed_memory

IGNORED = -100  # what `transformers` takes for no target
SAME_LOSS = 1e-5
HISTORIES = (1, 2, 5, 10, 20)

#: A CPU compiles the products of a shape when it first comes. On a GPU, batches of a shape run as they are written at
#: first; the next is captured, and from then on replayed.
UNTIMED_PASSES, UNTIMED_PASSES_ON_GPU = 1, 2

#: What the peer does at first.
UNTIMED_STEPS = 1

#: Processes that read the peer's samples while a GPU makes its steps.
READERS = 4


class Work(NamedTuple):
    """What a step learns from: batch_size sources, or samples of the peer, and further targets that histories have."""

    batch_size: int
    taught: int

    def __str__(self) -> str:
        return f"batches of {self.batch_size}" + (f", {1 + self.taught} targets a history" if self.taught else "")


class Where(NamedTuple):
    """The device that trains, and the precision of its products: fp32 or bf16."""

    device: str
    precision: str

    @property
    def on_gpu(self) -> bool:
        """Whether the device is no CPU."""
        return self.device != "cpu"

    def __str__(self) -> str:
        return f", {self.device}, {self.precision}" if self.on_gpu else ""


def main(
    to: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
    full: Annotated[bool, typer.Option("--full", help="A larger batch, too.")] = False,
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-size", help="Sources a step, samples of the peer.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of ours in a run; the peer makes an eighth of them.")] = 16,
    runs: Annotated[int, typer.Option(help="Runs of each.")] = 3,
    taught: Annotated[int, typer.Option(help="Further targets of each history.")] = 0,
    growth: Annotated[bool, typer.Option(help="Measure how the time grows with the work.")] = True,
    device: Annotated[str, typer.Option(help="Where both train: cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="Of the products: fp32 or bf16.")] = "fp32",
) -> None:
    """Compare the training of the stage with `transformers.Trainer`."""
    where = Where(device, precision)
    data = instruments()
    known = vocabularies(data)
    rate = matrix_rate(device, precision=precision)
    works = [Work(size, taught) for size in batch_sizes or ([256, 1024] if full else [256])]
    cases = [compared(data, known, where, work, steps=steps, runs=runs, rate=rate) for work in works]
    keep_freed_memory()
    grown = [by_history(data, training_samples(data, known), known, where)] if growth else []
    report("train", cases, to=to, growth=grown, device=device)


def training_samples(data: Instruments, known: Vocabularies, taught: int = 0) -> Samples:
    """Return the training samples of all tasks; histories have taught further targets, any items."""
    found = partial(samples, data.interactions, data.codes, known.vocabulary, split="train", max_history=MAX_HISTORY)
    count = len(histories(data.interactions, split="train", max_history=MAX_HISTORY).targets)
    items = len(next(iter(data.codes.values())))
    tables = found(taught=np.random.default_rng(0).integers(0, items, (count, taught), np.int32))
    return samples_of(*(table for _, table in tables))


def compared(
    data: Instruments, known: Vocabularies, where: Where, work: Work, *, steps: int, runs: int, rate: float
) -> Case:
    """Return the case of a work."""
    corpus = training_samples(data, known, work.taught)
    lengths = corpus.source.lengths.numpy()
    some = torch.arange(0, len(lengths), len(lengths) // work.batch_size)
    difference = loss_difference(corpus, known, some, device=where.device)
    rates = alternate_apart(
        ours=partial(our_rate, where, work, steps),
        peer=partial(peer_rate, where, work, steps if where.on_gpu else max(1, steps // 8)),
        runs=runs,
    )
    operations = FORWARD_AND_BACKWARD * (
        encoder_operations(lengths)
        + decoder_operations(
            tokens=int(corpus.target.lengths[0]),
            seen=3.0,
            lengths=lengths.repeat(corpus.firsts.diff().numpy()),
            vocabulary=known.vocabulary.size,
        )
    )
    return Case(
        f"{work}{where}",
        "samples/s",
        peer=median(each.result for each in rates.peer),
        ours=median(each.result for each in rates.ours),
        limit=rate * len(corpus.items) / operations,
        facts={
            "interactions": data.source,
            "relative difference of a batch's loss": difference,
            "gigaflop a second of the limit": rate / 1e9,
        },
    )


def our_rate(where: Where, work: Work, steps: int) -> float:
    """Return the samples a second of some steps of ours."""
    keep_freed_memory()
    data = instruments()
    known = vocabularies(data)
    corpus = training_samples(data, known, work.taught)
    training = our_training(corpus, known, where, batch_size=work.batch_size)
    batches = spread(training.steps(0), corpus, count=steps)
    for _ in range(UNTIMED_PASSES_ON_GPU if where.on_gpu else UNTIMED_PASSES):
        training.epoch(0, batches, batches)
    start = time.perf_counter()
    training.epoch(0, batches, batches)
    seconds = time.perf_counter() - start
    samples_each = corpus.firsts.diff()
    return sum(int(samples_each[rows].sum()) for step in batches for rows in step) / seconds


def peer_rate(where: Where, work: Work, steps: int) -> float:
    """Return the samples a second of some steps of the peer."""
    data = instruments()
    known = vocabularies(data)
    corpus = training_samples(data, known, work.taught)
    trainer = peer_training(corpus, known, where, batch_size=work.batch_size, steps=UNTIMED_STEPS + steps)
    clock = Clock(UNTIMED_STEPS)
    trainer.add_callback(clock)
    trainer.train()
    return work.batch_size * steps / (time.perf_counter() - clock.start)


class Clock(TrainerCallback):
    """Takes the time when so many steps of a training have passed and the next one begins."""

    def __init__(self, steps: int) -> None:
        self.steps, self.start = steps, math.inf

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Take the time if it is that step."""
        if state.global_step == self.steps:
            self.start = time.perf_counter()


def our_training(corpus: Samples, known: Vocabularies, where: Where, *, batch_size: int) -> Training:
    """Return the stage's training of a new model, with the published settings."""
    published = PAPER.t5.model_dump(include=set(Settings._fields))
    changes = {"lambda_implicit": 0.0, "epochs": 1, "batch_size": batch_size, "monitor": "loss"}
    settings = Settings(**published | changes, seed=0)
    accelerator = accelerator_on(where.device, precision=where.precision)
    return Training(
        known.model(),
        corpus,
        Validation(corpus, ()),
        known.tokens,
        vocabulary=known.vocabulary,
        settings=settings,
        accelerator=accelerator,
    )


def spread(steps: list[list[Tensor]], corpus: Samples, *, count: int) -> list[list[Tensor]]:
    """Return count of an epoch's steps of one batch, at even distances in the order of their lengths."""
    ordered = sorted(steps, key=lambda step: float(corpus.source.lengths[step[0]].double().mean()))
    middles = (np.arange(count) + 0.5) * len(ordered) / count
    return [ordered[int(place)] for place in middles]


class Lists(Dataset[dict[str, Tensor]]):
    """Samples one by one, as `Trainer` asks for them."""

    def __init__(self, corpus: Samples) -> None:
        self.corpus = corpus
        self.sources = torch.repeat_interleave(torch.arange(len(corpus.source.lengths)), corpus.firsts.diff())

    def __len__(self) -> int:
        return len(self.corpus.items)

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        source, target = (
            rows.values[rows.offsets[row] : rows.offsets[row + 1]].long()
            for rows, row in ((self.corpus.source, self.sources[sample]), (self.corpus.target, sample))
        )
        return {"input_ids": source, "labels": target}


def padded(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return rows as one batch, padded to the longest."""
    sources, targets = ([row[name] for row in rows] for name in ("input_ids", "labels"))
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    source = pad(sources, padding_value=PAD)
    return {"input_ids": source, "attention_mask": source != PAD, "labels": pad(targets, padding_value=IGNORED)}


def peer_training(corpus: Samples, known: Vocabularies, where: Where, *, batch_size: int, steps: int) -> Any:
    """Return a `Trainer` of a new model that makes steps steps at each call of train."""
    arguments = TrainingArguments(
        output_dir=str(Path(tempfile.gettempdir(), "tessera-benchmarks")),
        per_device_train_batch_size=batch_size,
        max_steps=steps,
        learning_rate=PAPER.t5.lr,
        weight_decay=PAPER.t5.weight_decay,
        max_grad_norm=PAPER.t5.clip_norm,
        lr_scheduler_type="cosine",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not where.on_gpu,
        bf16=where.precision == "bf16",
        dataloader_num_workers=READERS if where.on_gpu else 0,
        seed=0,
    )
    trainer = Trainer(model=known.model(), args=arguments, train_dataset=Lists(corpus), data_collator=padded)
    trainer.remove_callback(PrinterCallback)
    return trainer


@torch.inference_mode()
def loss_difference(corpus: Samples, known: Vocabularies, sources: Tensor, *, device: str) -> float:
    """Return how far the two losses of the same batch and weights are apart; raise ValueError where they differ."""
    model = known.model().eval().to(device)
    source, target, *_ = corpus.batch(sources).to(torch.device(device))
    ours = float(softmax_losses(model, source, target)) / int((target != PAD).sum())
    source = source.repeat_interleave(len(target) // len(source), dim=0)
    labels = target.masked_fill(target == PAD, IGNORED)
    theirs = float(model(input_ids=source, attention_mask=source != PAD, labels=labels).loss)
    difference = abs(ours - theirs) / theirs
    if difference > SAME_LOSS:
        raise ValueError(f"train: expected the loss {theirs} of the peer within {SAME_LOSS}, found {ours}")
    return difference


def by_history(data: Instruments, corpus: Samples, known: Vocabularies, where: Where) -> Growth:
    """Return the seconds of a step of 256 samples, by the items in their histories."""
    training = our_training(corpus, known, where, batch_size=256)
    levels = next(iter(data.codes.values())).shape[1]
    seconds = []
    for items in HISTORIES:
        step = [[torch.nonzero(corpus.source.lengths == items * levels + 1)[:256, 0]]]
        training.epoch(0, step, step)
        seconds.append(median_seconds(partial(training.epoch, 0, step, step), runs=3))
    return Growth("training step by history", "items", list(HISTORIES), seconds)


if __name__ == "__main__":
    typer.run(main)
