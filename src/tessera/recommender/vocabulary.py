"""The closed vocabulary: which integer stands for what.

    0                 padding, and the decoder's start
    1                 end of an ID
    2 ...             one token a task whose target modality is not its source modality, in the order of the tasks
    then              M codes for level 0 of the first modality, M for its level 1, ..., then the next modality

A token therefore tells its modality and level, and no two modalities or levels share one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.errors import DataError, ParamsError, TableError

PAD = 0
END = 1
FIRST_FREE = 2
LARGEST_TOKEN = 65_535

Tokens = NDArray[np.uint16]


@dataclass(frozen=True)
class Task:
    """One way to make samples: `history text -> image` or `item text -> image`.

    A history task reads the source modality's IDs of a user's history and tells the next item's target ID; an item
    task reads an item's source ID and tells the same item's target ID.
    """

    kind: str
    source: str
    target: str

    @classmethod
    def parse(cls, text: str) -> "Task":
        """Return the task that text spells; raise ParamsError where it spells none.

        >>> Task.parse("history text -> image")
        Task(kind='history', source='text', target='image')
        """
        match text.split():
            case ["history" | "item" as kind, source, "->", target] if kind == "history" or source != target:
                return cls(kind, source, target)
        raise ParamsError(
            f"corpus.tasks: expected 'history MODALITY -> MODALITY' or 'item MODALITY -> OTHER', found {text!r}"
        )

    @property
    def is_recommendation(self) -> bool:
        """Whether source and target are one modality: the tasks that rank items."""
        return self.source == self.target

    def __str__(self) -> str:
        return f"{self.kind} {self.source} -> {self.target}"


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of tasks and codes; `codebook_sizes` maps a modality to the sizes of its L levels."""

    tasks: tuple[Task, ...]
    codebook_sizes: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if self.size - 1 > LARGEST_TOKEN:
            raise DataError(f"vocabulary: expected at most {LARGEST_TOKEN + 1} tokens, found {self.size}")

    @classmethod
    def of(
        cls, tasks: tuple[Task, ...], codes: Mapping[str, NDArray[np.integer[Any]]], *, codebook_size: int
    ) -> "Vocabulary":
        """Return the vocabulary for codes, modality -> (N, L), with codebook_size codes a level, or more where used."""
        sizes = {m: tuple(max(codebook_size, int(top) + 1) for top in table.max(axis=0)) for m, table in codes.items()}
        return cls(tasks, sizes)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have IDs."""
        return tuple(self.codebook_sizes)

    @cached_property
    def offsets(self) -> dict[str, tuple[int, ...]]:
        """The token of code 0, per modality and level."""
        offsets, token = {}, FIRST_FREE + len(self._prefixed)
        for modality, sizes in self.codebook_sizes.items():
            offsets[modality] = tuple(token + sum(sizes[:level]) for level in range(len(sizes)))
            token += sum(sizes)
        return offsets

    @cached_property
    def token_modalities(self) -> NDArray[np.int64]:
        """The place in modalities of the one that each token is a code of, (V,), or -1 where it is no code."""
        places = np.full(self.size, -1)
        for place, (modality, sizes) in enumerate(self.codebook_sizes.items()):
            first = self.offsets[modality][0]
            places[first : first + sum(sizes)] = place
        return places

    @property
    def size(self) -> int:
        """How many tokens there are, V."""
        return FIRST_FREE + len(self._prefixed) + sum(sum(sizes) for sizes in self.codebook_sizes.values())

    def prefix(self, task: Task) -> tuple[int, ...]:
        """Return the tokens that a source of task starts with: none for a recommendation task."""
        return (FIRST_FREE + self._prefixed.index(task),) if task in self._prefixed else ()

    def tokens(self, modality: str, codes: NDArray[np.integer[Any]]) -> Tokens:
        """Return the tokens (N, L) of codes (N, L); raise DataError where they do not fit modality's codebooks."""
        sizes = self.codebook_sizes[modality]
        if codes.ndim != 2 or codes.shape[1] != len(sizes) or (codes.size and (codes >= sizes).any()):  # noqa: PLR2004
            found = f"{codes.shape} up to {codes.max(axis=0).tolist() if codes.size else []}"
            raise DataError(f"IDs of {modality}: expected codes below {list(sizes)}, found {found}")
        return (codes + np.array(self.offsets[modality])).astype(np.uint16)

    @property
    def fingerprint(self) -> str:
        """A digest of the whole map: two vocabularies with the same one mean the same by each token."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the document that from_json reads."""
        return {
            "size": self.size,
            "tasks": [str(task) for task in self.tasks],
            "codebook_sizes": {modality: list(sizes) for modality, sizes in self.codebook_sizes.items()},
        }

    @classmethod
    def from_json(cls, document: Any) -> "Vocabulary":
        """Return the vocabulary that to_json wrote; raise TableError where it is not one."""
        try:
            tasks = tuple(Task.parse(task) for task in document["tasks"])
            return cls(tasks, {m: tuple(sizes) for m, sizes in document["codebook_sizes"].items()})
        except (KeyError, TypeError, AttributeError, ParamsError) as error:
            raise TableError(f"vocabulary: expected tasks and codebook_sizes, found {document!r:.200}") from error

    @cached_property
    def _prefixed(self) -> tuple[Task, ...]:
        return tuple(task for task in self.tasks if not task.is_recommendation)


def parse_tasks(texts: list[str], modalities: list[str]) -> tuple[Task, ...]:
    """Return the tasks that texts spell; raise ParamsError for a repeated one or one that names another modality."""
    tasks = tuple(Task.parse(text) for text in texts)
    if len(set(tasks)) < len(tasks):
        raise ParamsError(f"corpus.tasks: expected distinct tasks, found {texts}")
    for task in tasks:
        if unknown := {task.source, task.target} - set(modalities):
            raise ParamsError(
                f"corpus.tasks: expected modalities among {modalities}, found {sorted(unknown)} in '{task}'"
            )
    if not any(task.kind == "history" and task.is_recommendation for task in tasks):
        raise ParamsError(f"corpus.tasks: expected at least one 'history MODALITY -> same MODALITY', found {texts}")
    return tasks
