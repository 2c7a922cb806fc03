"""The curves of the trainings, from what each leaves an epoch."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import polars as pl

#: Epochs of a curve: more are not seen.
CURVE_POINTS: Final = 200


class Point(NamedTuple):
    """A value of an epoch."""

    name: str
    epoch: int
    value: float


class Curves(NamedTuple):
    """Curves on the same axes."""

    name: str
    title: str
    label: str  # of the values
    points: list[Point]


#: What is drawn together: the history that it is in, its title and label, and the columns with their names.
_DRAWN: Final = (
    (
        "distillation",
        "Picture encoder: loss",
        "loss",
        {"loss": "total", "dino": "self-distillation", "rq": "codes, before their weight"},
    ),
    ("quantizer", "Quantizer: loss", "loss", {"total": "total", "rq": "codes", "recon": "reconstruction"}),
    (
        "quantizer",
        "Quantizer: contrast between modalities",
        "loss before its weight",
        {"con": "pseudo-labels", "align": "same item"},
    ),
    ("t5", "T5: loss", "cross-entropy a token", {"train_loss": "training", "valid_loss": "validation"}),
    ("t5", "T5: validation", "measure", {"valid_hr@10": "HR@10", "valid_ndcg@10": "NDCG@10"}),
    ("sequence", "Sequence encoder: loss", "loss", {"loss": "training"}),
)


#: Losses between modalities: 0 in every epoch where they have no weight, since then they are not computed.
_BETWEEN: Final = {"con", "align"}


def curves_of(**histories: pl.DataFrame) -> list[Curves]:
    """Return the curves that histories hold: tables with `epoch`.

    Their names are distillation, quantizer, t5 and sequence. A column that is not there, or not in that epoch, is left
    out, and so are losses between modalities that no epoch computed, and curves without a point: not every system
    trains everything.
    """
    found = []
    for place, (history, title, label, columns) in enumerate(_DRAWN):
        points = [point for column, name in columns.items() for point in points_of(histories[history], column, name)]
        if points:
            found.append(Curves(f"curve-{place}", title, label, points))
    return found


def points_of(history: pl.DataFrame, column: str, name: str) -> list[Point]:
    """Return the values of a column under another name; of a long history epochs at even distances and the last."""
    if column not in history.columns or (column in _BETWEEN and not (history[column] != 0).any()):
        return []
    rows = history.select("epoch", column).drop_nulls().rows()
    step = -(-len(rows) // CURVE_POINTS) if rows else 1
    kept = rows[::step] + ([rows[-1]] if rows and (len(rows) - 1) % step else [])
    return [Point(name, int(epoch), float(value)) for epoch, value in kept]


def history_of(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return rows of numbers as a table; of none an empty one."""
    return pl.DataFrame([dict(row) for row in rows], infer_schema_length=None) if rows else pl.DataFrame({"epoch": []})
