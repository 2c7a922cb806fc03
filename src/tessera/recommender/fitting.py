"""Train the T5: batches, steps, looks at the validation split, early stopping, and checkpoints to go on from.

All randomness of an epoch (order of sources, dropout, hidden modalities) follows from the seed, the epoch and the
process, so a training that was killed and resumed ends with the same weights as one that was not.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import T5ForConditionalGeneration

from tessera.errors import CheckpointError, DataError, ParamsError
from tessera.recommender.batches import Batch, Samples, cut_into_batches, hide_modalities
from tessera.recommender.gradients import Gradients, replayed
from tessera.recommender.lists import NOTHING
from tessera.recommender.losses import Alignment, TrainingLosses
from tessera.recommender.ranking import Share
from tessera.recommender.trie import Trie, build_trie
from tessera.recommender.validation import MONITOR_CUTOFF, Validation, hit_sums, loss_sums
from tessera.recommender.vocabulary import PAD, Tokens, Vocabulary
from tessera.schemas import JOINT

#: Tells the seed of what is masked from that of dropout, which follows from the same epoch and process.
MASKING: Final = 1

#: In the names of tables that are biases of the attention, by distance, items or slots.
BIASES = ("bias", "item_positions")

#: On a GPU the distinct items of batches are filled up to a multiple of this, so that they come in few shapes.
ROOM: Final = 256


class Settings(NamedTuple):
    """How to train; the parameters of section t5 that are not sizes of the model."""

    loss: Literal["softmax", "trie_softmax"]
    modality_masking: float
    lambda_implicit: float
    temperature: float
    alignment_epochs: int
    alignment_batch_size: int
    epochs: int
    batch_size: int
    accumulation: int
    lr: float
    warmup: float
    weight_decay: float
    clip_norm: float
    monitor: str
    monitor_every: int
    patience: int
    seed: int


class Fitted(NamedTuple):
    """The best model and one row an epoch of what was measured on the way."""

    model: T5ForConditionalGeneration
    history: list[dict[str, float]]
    best_epoch: int
    alignment: list[float]  # the loss of each epoch of the alignment stage


class State(NamedTuple):
    """All that a training needs to go on after an epoch."""

    history: list[dict[str, float]]
    best_weights: dict[str, Tensor]
    best_value: float
    best_epoch: int
    looks_without_gain: int
    alignment: list[float]

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)


class Store(Protocol):
    """Where checkpoints are kept."""

    def load(self) -> dict[str, Any] | None: ...  # noqa: D102
    def save(self, checkpoint: dict[str, Any]) -> None: ...  # noqa: D102


def fit(
    model: T5ForConditionalGeneration,
    train: Samples,
    validation: Validation,
    ids: Mapping[str, Tokens],
    *,
    vocabulary: Vocabulary,
    settings: Settings,
    accelerator: Accelerator,
    store: Store | None = None,
    on_epoch: Callable[[dict[str, float]], None] = lambda _: None,
    progress: Callable[[list[list[Tensor]], str], Iterable[list[Tensor]]] = lambda steps, _: steps,
) -> Fitted:
    """Train model on train and return it with its best weights by settings.monitor.

    ids maps a modality, and JOINT, to the tokens (N, L) of all items, for L_implicit and the tries of t5.loss. Where
    settings ask for epochs of alignment, these come first, and the training on train starts from their weights.
    on_epoch is told each epoch's row, those before a resumed epoch too. progress wraps the steps of an epoch under a
    title. The last checkpoint of a store is gone on from.

    Raises CheckpointError where the loss is no longer a number, ParamsError where a batch has fewer sources than there
    are processes, and DataError where a trie is needed of IDs that are not among ids.
    """
    training = Training(
        model, train, validation, ids, vocabulary=vocabulary, settings=settings, accelerator=accelerator
    )
    state = _resumed(store, training)
    if state is None:
        aligned = align(model, ids, settings=settings, accelerator=accelerator, progress=progress)
        state = State([], {}, -math.inf, best_epoch=0, looks_without_gain=0, alignment=aligned)
    for row in state.history:
        on_epoch(row)
    while state.epoch < settings.epochs and state.looks_without_gain < settings.patience:
        steps = training.steps(state.epoch)
        row = training.epoch(state.epoch, steps, progress(steps, f"epoch {state.epoch + 1} of {settings.epochs}"))
        state = training.looked(state, row)
        on_epoch(state.history[-1])
        if store is not None and accelerator.is_main_process:
            store.save({**state._asdict(), **training.weights()})
    model.load_state_dict(state.best_weights)
    return Fitted(model.eval(), state.history, state.best_epoch, state.alignment)


def align(
    model: T5ForConditionalGeneration,
    ids: Mapping[str, Tokens],
    *,
    settings: Settings,
    accelerator: Accelerator,
    progress: Callable[[list[list[Tensor]], str], Iterable[list[Tensor]]] = lambda steps, _: steps,
) -> list[float]:
    """Train the encoder of model by `Alignment` for settings.alignment_epochs; return the loss of each.

    Every epoch passes over all items in the fewest batches of at most settings.alignment_batch_size. An item's
    negatives are all others of its batch, so that every process computes it whole.
    """
    if not settings.alignment_epochs:
        return []
    alignment = Alignment(model, _own_ids(ids, accelerator.device), temperature=settings.temperature)
    optimizer = optimizer_of(alignment, accelerator.device, settings=settings)
    gradients = Gradients(alignment.parameters(), accelerator)
    alignment.train()
    count = len(next(iter(ids.values())))
    cuts = -(-count // settings.alignment_batch_size)
    steps_in_all = settings.alignment_epochs * cuts
    losses = []
    for epoch in range(settings.alignment_epochs):
        known = settings.seed, settings.epochs + epoch  # the numbers of epochs that the training does not have
        torch.manual_seed(_derived_seed(*known, accelerator.process_index))
        order = torch.randperm(count, generator=torch.Generator().manual_seed(_derived_seed(*known)))
        steps = [[rows] for rows in order.tensor_split(cuts)]
        total = torch.zeros((), device=accelerator.device)
        told = progress(steps, f"alignment epoch {epoch + 1} of {settings.alignment_epochs}")
        for number, (rows,) in enumerate(told, start=epoch * cuts):
            _set_rate(optimizer, number, steps=steps_in_all, settings=settings)
            with accelerator.autocast():
                loss = alignment(rows.to(accelerator.device))
            gradients.add(loss / accelerator.num_processes)
            _step(optimizer, gradients, settings=settings)
            total += loss.detach()
        losses.append(float(accelerator.reduce(total, "mean")) / cuts)
    return losses


def learning_rate(step: int, *, steps: int, peak: float, warmup: float) -> float:
    """Return the rate of step (from 0) of steps: a line up over the share warmup, then half a cosine down to 0."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def optimizer_of(losses: torch.nn.Module, device: torch.device, *, settings: Settings) -> torch.optim.Optimizer:
    """Put losses on device and return AdamW for its weights: one kernel on a GPU, where starting many takes longest.

    As the Trainer of `transformers` has it, neither norms nor biases decay, those of distances included.
    """
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, weight in losses.to(device).named_parameters():
        groups[weight.ndim > 1 and not any(part in name for part in BIASES)].append(weight)
    decays = [
        {"params": weights, "weight_decay": settings.weight_decay if decay else 0.0}
        for decay, weights in groups.items()
    ]
    return torch.optim.AdamW(decays, lr=settings.lr, fused=device.type == "cuda")


class Training:
    """The objects that a training goes through its epochs with."""

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        train: Samples,
        validation: Validation,
        ids: Mapping[str, Tokens],
        *,
        vocabulary: Vocabulary,
        settings: Settings,
        accelerator: Accelerator,
    ) -> None:
        processes = accelerator.num_processes
        if settings.batch_size < processes:
            raise ParamsError(
                f"t5.batch_size: expected at least one source for each of {processes} processes, "
                f"found {settings.batch_size}"
            )
        if (count := len(train.source.lengths)) < processes:
            raise DataError(f"training sources: expected at least one for each of {processes} processes, found {count}")
        needed = ids if settings.loss == "trie_softmax" else {}
        tries = {name: build_trie(tokens).to(accelerator.device) for name, tokens in needed.items()}
        self.valid_tries = _chosen(tries, validation.samples.names)
        self.losses = TrainingLosses(
            model,
            _own_ids(ids, accelerator.device),
            lambda_implicit=settings.lambda_implicit,
            temperature=settings.temperature,
            tries=_chosen(tries, train.names),
        )
        self.model, self.validation, self.settings, self.accelerator = model, validation, settings, accelerator
        self.optimizer = optimizer_of(self.losses, accelerator.device, settings=settings)
        self.gradients = Gradients(self.losses.parameters(), accelerator)
        self.add_gradients = replayed(self._add_gradients, accelerator.device)
        self.samples, self.train = train, train.to(accelerator.device)
        self.token_modalities = torch.from_numpy(vocabulary.token_modalities).to(accelerator.device)
        self.processes, self.process = accelerator.num_processes, accelerator.process_index

    def weights(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside the state."""
        return {"weights": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_weights(self, weights: dict[str, Tensor], optimizer: dict[str, Any]) -> None:
        """Go back to what weights() returned."""
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(optimizer)

    def steps(self, epoch: int) -> list[list[Tensor]]:
        """Return the epoch's steps; each holds up to settings.accumulation batches for all processes together."""
        generator = torch.Generator().manual_seed(_derived_seed(self.settings.seed, epoch))
        batches = cut_into_batches(
            self.samples.source.lengths,
            batch_size=self.settings.batch_size,
            smallest=self.processes,
            generator=generator,
        )
        each = self.settings.accumulation
        return [batches[start : start + each] for start in range(0, len(batches), each)]

    def epoch(self, epoch: int, steps: list[list[Tensor]], told: Iterable[list[Tensor]]) -> dict[str, float]:
        """Go through steps, as told yields them; return the epoch's row of the history."""
        torch.manual_seed(_derived_seed(self.settings.seed, epoch, self.process))
        masking = torch.Generator(self.accelerator.device)
        masking.manual_seed(_derived_seed(self.settings.seed, epoch, self.process, MASKING))
        self.losses.train()
        sums = torch.zeros(3, device=self.accelerator.device)  # token losses, tokens, L_implicit
        for number, batches in enumerate(told, start=epoch * len(steps)):
            rate = _set_rate(self.optimizer, number, steps=self.settings.epochs * len(steps), settings=self.settings)
            tokens_in_all = sum(map(self.samples.tokens, batches))
            divisors = [self._number(each) for each in (tokens_in_all, len(batches) * self.processes)]
            for rows in batches:
                batch, distinct = self._batch(rows, masking)
                sums += self.add_gradients(*batch, distinct, *divisors)
            _step(self.optimizer, self.gradients, settings=self.settings)
        token_loss, tokens, implicit = self.accelerator.reduce(sums, "sum").tolist()
        row = {
            "epoch": epoch + 1,
            "learning_rate": rate,
            "train_loss": token_loss / tokens,
            "implicit_loss": implicit / len(steps),
        }
        _require_finite(row)
        return row

    def looked(self, state: State, row: dict[str, float]) -> State:
        """Return state after the epoch of row, with a look at the validation split where one is due."""
        is_last = state.epoch + 1 == self.settings.epochs
        if (state.epoch + 1) % self.settings.monitor_every and not is_last:
            return state._replace(history=[*state.history, row])
        row = row | self._measured()
        _require_finite(row)
        value = -row["valid_loss"] if self.settings.monitor == "loss" else row[f"valid_{self.settings.monitor}"]
        history = [*state.history, row]
        if value <= state.best_value:
            return state._replace(history=history, looks_without_gain=state.looks_without_gain + 1)
        weights = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
        return State(history, weights, value, best_epoch=len(history), looks_without_gain=0, alignment=state.alignment)

    def _number(self, number: int) -> Tensor:
        return torch.full((), float(number), device=self.accelerator.device)

    def _batch(self, rows: Tensor, masking: torch.Generator) -> tuple[Batch, Tensor]:
        """Return this process's part of the batch of sources rows, modalities hidden, and the items to be aligned.

        Those are the distinct own targets of the whole batch, whose every item is a negative of each other one. What
        is asked of the samples is asked on the CPU, so that a GPU is waited for only where modalities are hidden.
        """
        device = self.accelerator.device
        own = rows[self.process :: self.processes]
        batch = self.train.batch(own.to(device, non_blocking=True), self.samples.widths(own))
        share = self.settings.modality_masking
        masked = hide_modalities(batch.source, self.token_modalities, share=share, generator=masking)
        distinct = self.samples.distinct_items(rows) if self.losses.aligns else rows[:0]
        if device.type == "cuda":
            distinct = torch.nn.functional.pad(distinct, (0, -len(distinct) % ROOM), value=NOTHING)
        return batch._replace(source=masked), distinct.to(device, non_blocking=True)

    def _add_gradients(self, *tensors: Tensor) -> Tensor:
        """Add the gradients of a batch; return its sums of token losses and tokens, and its part of L_implicit.

        tensors are those of the batch, its distinct items, and two numbers. The first divides the token losses, the
        tokens of all the step's batches and processes; the second L_implicit, how many these are. Several processes
        have the gradient of one; of several small batches the token losses have that of one large batch, and L_implicit
        has fewer negatives.
        """
        *tables, distinct, tokens_in_all, parts = tensors
        batch = Batch(*tables)
        with self.accelerator.autocast():
            token_loss, implicit = self.losses(batch, distinct)
        self.gradients.add(token_loss / tokens_in_all + self.settings.lambda_implicit * implicit / parts)
        return torch.stack([token_loss.detach(), (batch.target != PAD).sum(), implicit.detach() / parts])

    def _measured(self) -> dict[str, float]:
        """Return the validation loss and, where the monitor asks for a ranking, HR@10 and NDCG@10 over all rankings."""
        self.model.eval()
        share = Share(self.process, self.processes)
        samples, batch_size = self.validation.samples, self.settings.batch_size
        sums = loss_sums(self.model, samples, share, batch_size=batch_size, tries=self.valid_tries)
        loss, tokens = self._over_processes(sums)
        row = {"valid_loss": loss / tokens}
        if self.settings.monitor == "loss":
            return row
        sums = hit_sums(self.model, self.validation.rankings, share, batch_size=batch_size)
        hits, gains, users = self._over_processes(sums)
        return row | {f"valid_hr@{MONITOR_CUTOFF}": hits / users, f"valid_ndcg@{MONITOR_CUTOFF}": gains / users}

    def _over_processes(self, sums: Tensor) -> list[float]:
        total: list[float] = self.accelerator.reduce(sums.to(self.accelerator.device), "sum").tolist()
        return total


def _require_finite(row: Mapping[str, float]) -> None:
    """Raise CheckpointError where a number of an epoch's row is none, so that no such weights are kept."""
    if not all(map(math.isfinite, row.values())):
        raise CheckpointError(f"t5: expected a finite loss, found {row}; a lower t5.lr may help")


def _set_rate(optimizer: torch.optim.Optimizer, step: int, *, steps: int, settings: Settings) -> float:
    rate = learning_rate(step, steps=steps, peak=settings.lr, warmup=settings.warmup)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def _step(optimizer: torch.optim.Optimizer, gradients: Gradients, *, settings: Settings) -> None:
    """Go a step along the gradients of all processes, cut to the norm that settings allow."""
    gradients.meet()
    torch.nn.utils.clip_grad_norm_(gradients.weights, settings.clip_norm)
    optimizer.step()
    gradients.clear()


def _own_ids(ids: Mapping[str, Tokens], device: torch.device) -> dict[str, Tensor]:
    """Return the IDs of each modality, without those that join them, on the device."""
    return {name: torch.from_numpy(tokens).to(device) for name, tokens in ids.items() if name != JOINT}


def _resumed(store: Store | None, training: Training) -> State | None:
    checkpoint = store.load() if store is not None else None
    if checkpoint is None:
        return None
    training.load_weights(checkpoint.pop("weights"), checkpoint.pop("optimizer"))
    return State(**checkpoint)


def _chosen(tries: Mapping[str, Trie], names: Sequence[str]) -> tuple[Trie, ...]:
    """Return the tries of names in their order, none where there are no tries at all."""
    if not tries:
        return ()
    if unknown := set(names) - set(tries):
        raise DataError(f"t5.loss: expected tasks that tell IDs of {sorted(tries)}, found {sorted(unknown)}")
    return tuple(tries[name] for name in names)


def _derived_seed(seed: int, *parts: int) -> int:
    return int(np.random.SeedSequence([seed, *parts]).generate_state(1, np.uint64)[0] >> 1)
