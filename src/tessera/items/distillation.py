"""Learn pictures and their codes together: residual quantisation inside self-distillation (MSCGRec's picture codes).

DINO (arXiv 2104.14294): a student learns to say of any view of a picture what a teacher says of its two global views;
the teacher is a moving average of the student and gets no gradient. MSCGRec (arXiv 2602.03713) puts a residual
quantiser between the student's backbone and its head, so that what the student says is said through codes:

    student: view -> backbone -> h -> residual quantiser -> summed codes -> head -> P_s
    teacher: view -> backbone -> h -> head -> P_t
    L = L_DINO + lambda_rq * sum over levels of L_rq

Published of it: the place of the quantiser, three levels of 256 codes, and that nothing is reconstructed. There is no
code; chosen here: the teacher is not quantised; L_rq is the quantizer's own, its codebooks learn by gradient (not by
moving averages) and start as the residual k-means of what the untrained teacher says of whole pictures; dead codes are
replaced as the quantizer's are; views, sizes and weights are parameters. Of DINO are left out: the growth of the
teacher's temperature and of the weight decay, and the first epoch's rest of the head's last layer. Its centre starts at
0; here at the mean of the first batch: what untrained networks say is much the same of all pictures, and a teacher that
is not centred says it with certainty, which is soon learned and worth nothing.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, Protocol

import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera.errors import DataError
from tessera.items.backbones import Backbone, channels_first
from tessera.items.views import Cuts, Views, views
from tessera.residual import Steps, dead_codes, quantise, quantization_loss, replace_codes, residual_kmeans, summed

#: Pictures that go through the teacher at once, where nothing is learned.
BLOCK = 256

#: The k-means of the first codebooks sees so many pictures a code at most.
POINTS_PER_CODE = 256

#: The teacher's views, and those that every student has.
GLOBAL_VIEWS = 2


class Pictures(Protocol):
    """Pictures (N, S, S, 3) of bytes: a tensor is such, and so is a file that is read row by row."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N, S, S and 3."""
        ...

    def __getitem__(self, rows: Tensor | slice, /) -> Tensor:
        """Return the pictures (B, S, S, 3) of rows."""
        ...


@dataclass(frozen=True)
class Codes:
    """The quantiser, named as in params.yaml."""

    levels: int
    codebook_size: int
    alpha: float
    replace_dead_after: int


@dataclass(frozen=True)
class Schedule:
    """The heads, the losses and how to learn, named as in params.yaml."""

    hidden: int
    bottleneck: int
    prototypes: int
    student_temperature: float
    teacher_temperature: float
    centre_momentum: float
    momentum: float
    lambda_rq: float
    epochs: int
    batch_size: int
    lr: float
    warmup: float
    weight_decay: float
    clip_norm: float


class Fitted(NamedTuple):
    """The teacher's backbone, the student's codebooks (L, M, D), and the history: a row an epoch."""

    backbone: Backbone
    codebooks: Tensor
    history: pl.DataFrame


class Head(nn.Module):
    """DINO's projection head (section 3.2): three layers, a bottleneck of length 1, and prototypes of length 1."""

    def __init__(self, width: int, *, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, states: Tensor) -> Tensor:
        """Return the logits (B, K) of states (B, D)."""
        narrow = functional.normalize(self.layers(states), dim=-1)
        return narrow @ functional.normalize(self.prototypes, dim=-1).T


class Teacher(nn.Module):
    """A backbone and a head."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, large: Tensor) -> Tensor:
        """Return the logits (2 * B, K) of global views (2 * B, 3, S, S)."""
        logits: Tensor = self.head(self.backbone(large))
        return logits


class Student(Teacher):
    """A backbone and a head with codebooks (L, M, D) between them."""

    def __init__(self, backbone: Backbone, head: Head, codebooks: Tensor) -> None:
        super().__init__(backbone, head)
        self.codebooks = nn.Parameter(codebooks)

    def of_views(self, seen: Views) -> tuple[Tensor, Steps]:
        """Return the logits (V * B, K) of all views, global ones first, and how they were quantised."""
        states = torch.cat([self.backbone(part) for part in seen if len(part)])
        steps = quantise(states, self.codebooks)
        return self.head(summed(states, steps.code_vectors)), steps


def distillation_loss(said: Tensor, taught: Tensor, centre: Tensor, *, schedule: Schedule) -> Tensor:
    """Return L_DINO () of the student's logits (V, B, K) and the teacher's (2, B, K), whose centre is (K,).

    Equations 1 and 3: the mean over pairs of a global view and another view of H(P_t, P_s), each a softmax of logits
    over its temperature, the teacher's centred (section 3.1; the paper sums over pairs). No gradient reaches taught.
    """
    targets = functional.softmax((taught.detach() - centre) / schedule.teacher_temperature, -1)
    scores = functional.log_softmax(said / schedule.student_temperature, -1)
    pairs = [(one, other) for one, other in product(range(len(targets)), range(len(scores))) if one != other]
    return torch.stack([-(targets[one] * scores[other]).sum(-1).mean() for one, other in pairs]).mean()


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, *, momentum: float) -> None:
    """Move the teacher's weights to momentum * theirs + (1 - momentum) * the student's (section 3.1)."""
    known = dict(student.named_parameters())
    for name, weight in teacher.named_parameters():
        weight.lerp_(known[name], 1 - momentum)


def moved_centre(centre: Tensor, taught: Tensor, *, momentum: float) -> Tensor:
    """Return the centre (K,) of the teacher's logits after (2, B, K) more of them (equation 4)."""
    return centre * momentum + taught.mean((0, 1)) * (1 - momentum)


def fit(
    backbone: Backbone,
    pictures: Pictures,
    *,
    cuts: Cuts,
    codes: Codes,
    schedule: Schedule,
    seed: int,
    device: torch.device,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Fitted:
    """Return what the backbone and its codes have learned from pictures; order, views and the head follow from seed.

    On a CPU the same seed gives the same bytes. On a GPU attention and the interpolation of positions add up their
    gradients in an order of their own.

    Raises DataError where there are not two pictures, or where the loss leaves the finite numbers.
    """
    if pictures.shape[0] < 2:  # noqa: PLR2004
        raise DataError(f"image: expected at least two pictures to learn from, found {pictures.shape[0]}")
    generator = torch.Generator().manual_seed(seed)
    sizes = {"hidden": schedule.hidden, "bottleneck": schedule.bottleneck, "prototypes": schedule.prototypes}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        teacher = Teacher(backbone.to(device), Head(backbone.width, **sizes).to(device)).requires_grad_(False).eval()
        first = _first_codebooks(teacher.backbone, pictures, codes=codes, generator=generator)
        copied = copy.deepcopy(teacher)
        student = Student(copied.backbone, copied.head, first).requires_grad_(True).train()
        training = _Training(student, teacher, cuts=cuts, codes=codes, schedule=schedule, generator=generator)
        rows = [training.epoch(number, pictures) for number in progress(range(1, schedule.epochs + 1))]
    return Fitted(teacher.backbone.eval(), student.codebooks.detach(), pl.DataFrame(rows))


@torch.no_grad()
def representations(backbone: Backbone, pictures: Pictures) -> Iterator[Tensor]:
    """Yield the representations (B, D) of whole pictures (N, S, S, 3), block by block, where the backbone is."""
    for start in range(0, pictures.shape[0], BLOCK):
        part = pictures[slice(start, min(start + BLOCK, pictures.shape[0]))]
        yield backbone(channels_first(part.to(backbone.mean.device)))


def picture_codes(fitted: Fitted, pictures: Pictures) -> Tensor:
    """Return the codes (N, L) of pictures, on the CPU."""
    parts = representations(fitted.backbone, pictures)
    return torch.cat([quantise(part, fitted.codebooks).codes.cpu() for part in parts])


def codebook_table(codebooks: Tensor) -> pl.DataFrame:
    """Return codebooks (L, M, D) as a table of level, code and vector."""
    levels, size, width = codebooks.shape
    return pl.DataFrame(
        {
            "level": torch.arange(levels).repeat_interleave(size).numpy(),
            "code": torch.arange(size).repeat(levels).numpy(),
            "vector": pl.Series(codebooks.reshape(-1, width).cpu().numpy(), dtype=pl.Array(pl.Float32, width)),
        },
        schema_overrides={"level": pl.UInt16, "code": pl.UInt16},
    )


def _first_codebooks(backbone: Backbone, pictures: Pictures, *, codes: Codes, generator: torch.Generator) -> Tensor:
    """Return the residual k-means (L, M, D) of the representations of some of the pictures, drawn at random."""
    drawn = torch.randperm(pictures.shape[0], generator=generator)[: POINTS_PER_CODE * codes.codebook_size]
    points = torch.cat(list(representations(backbone, _Some(pictures, drawn))))
    return residual_kmeans(points, levels=codes.levels, size=codes.codebook_size, generator=generator)


class _Some:
    """The pictures of some rows."""

    def __init__(self, pictures: Pictures, rows: Tensor) -> None:
        self._pictures, self._rows = pictures, rows
        self.shape = (len(rows), *pictures.shape[1:])

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self._pictures[self._rows[rows]]


class _Training:
    """What lasts from one epoch to the next."""

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        *,
        cuts: Cuts,
        codes: Codes,
        schedule: Schedule,
        generator: torch.Generator,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.cuts, self.codes, self.schedule, self.generator = cuts, codes, schedule, generator
        self.device = student.codebooks.device
        self.centre: Tensor | None = None  # no batch has been taught yet
        self.unused = torch.zeros(student.codebooks.shape[:2], dtype=torch.int64, device=self.device)
        self.optimizer = torch.optim.AdamW(_groups(student, decay=schedule.weight_decay), lr=schedule.lr)

    def epoch(self, number: int, pictures: Pictures) -> dict[str, float]:
        """Go through pictures once; return the history's row of this epoch."""
        order = torch.randperm(pictures.shape[0], generator=self.generator)
        batches = order.tensor_split(-(-len(order) // self.schedule.batch_size))
        used = torch.zeros_like(self.unused, dtype=torch.bool)
        sums = torch.zeros(3, device=self.device)
        for place, rows in enumerate(batches):
            done = (number - 1 + (place + 0.5) / len(batches)) / self.schedule.epochs
            terms, steps = self._step(pictures[rows].to(self.device), done=done)
            sums += terms * len(rows)
            used.scatter_(1, steps.codes.T, value=True)
        dead = dead_codes(self.unused, used, limit=self.codes.replace_dead_after)
        replace_codes(self.student.codebooks, dead, steps.residuals, generator=self.generator)
        names = ("loss", "dino", "rq")
        row: dict[str, float] = {"epoch": number} | dict(zip(names, (sums / len(order)).tolist(), strict=True))
        if not math.isfinite(row["loss"]):
            raise DataError(
                f"distill.lr: expected a rate at which the loss stays finite, found {row['loss']} in epoch {number}"
            )
        counts = {"used": used, "replaced": dead}
        return row | {f"{name}_{level}": n for name, c in counts.items() for level, n in enumerate(c.sum(1).tolist())}

    def _step(self, pictures: Tensor, *, done: float) -> tuple[Tensor, Steps]:
        """Learn from pictures (B, S, S, 3) when a share is done; return L, L_DINO and L_rq (3,), and the codes."""
        schedule = self.schedule
        seen = views(pictures, cuts=self.cuts, generator=self.generator)
        with torch.no_grad():
            taught = self.teacher(seen.large).unflatten(0, (GLOBAL_VIEWS, -1))  # (2, B, K)
        if self.centre is None:
            self.centre = taught.mean((0, 1))
        logits, steps = self.student.of_views(seen)
        dino = distillation_loss(logits.unflatten(0, (-1, len(pictures))), taught, self.centre, schedule=schedule)
        rq = quantization_loss(steps.residuals, steps.code_vectors, alpha=self.codes.alpha).sum()
        loss = dino + schedule.lambda_rq * rq
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.lr * rate(done, warmup=schedule.warmup)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), schedule.clip_norm)
        self.optimizer.step()
        follow(self.teacher, self.student, momentum=1 - (1 - schedule.momentum) * cosine(done))
        self.centre = moved_centre(self.centre, taught, momentum=schedule.centre_momentum)
        return torch.stack([loss, dino, rq]).detach(), steps


def cosine(done: float) -> float:
    """Return what a cosine takes from 1 to 0 while done goes from 0 to 1; half way it is a half."""
    return (1 + math.cos(math.pi * done)) / 2


def rate(done: float, *, warmup: float) -> float:
    """Return the share of the highest learning rate: rising to it in the share warmup, then a cosine to 0."""
    return done / warmup if done < warmup else cosine((done - warmup) / (1 - warmup) if warmup < 1 else 1.0)


def _groups(student: Student, *, decay: float) -> list[dict[str, object]]:
    """Return the weights for the optimiser: no decay for biases and norms, as in DINO, nor for codes."""
    named = dict(student.named_parameters())
    free = {name for name, weight in named.items() if weight.ndim <= 1 or name == "codebooks"}
    return [
        {"params": [weight for name, weight in named.items() if name not in free], "weight_decay": decay},
        {"params": [named[name] for name in named if name in free], "weight_decay": 0.0},
    ]
