"""The closed vocabulary: which integer stands for what.

    0                 padding, and the decoder's start
    1                 end of an ID
    2 ...             one token a task that does not recommend, in the order of the tasks
    then              the mark of a change of modality, where IDs are joined with marks
    then              M codes for level 0 of the first modality, M for its level 1, ..., then the next modality

A token therefore tells its modality and level, and no two modalities or levels share one.

Beside the IDs of each modality, an item may have one that joins them all, by the name of JOINT (MGR, arXiv 2503.23333):
its codes in each modality, one modality after the other (MGR-LF), or with a mark at each change (MGR-LF++).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from tessera.errors import DataError, ParamsError, TableError
from tessera.schemas import JOINING, JOINT
from tessera.tasks import MOST_TOKENS, Layout, Task, first_code, prefixed, task_tokens

PAD = 0
END = 1

#: The slot of a token that has none.
NO_SLOT = -1

Tokens = NDArray[np.uint16]


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of tasks and codes; `codebook_sizes` maps a modality to the sizes of its L levels."""

    tasks: tuple[Task, ...]
    codebook_sizes: Mapping[str, tuple[int, ...]]
    layout: Layout = "separate"

    def __post_init__(self) -> None:
        if self.size > MOST_TOKENS:
            raise DataError(f"vocabulary: expected at most {MOST_TOKENS} tokens, found {self.size}")

    @classmethod
    def of(
        cls,
        tasks: tuple[Task, ...],
        codes: Mapping[str, NDArray[np.integer[Any]]],
        *,
        codebook_size: int,
        layout: Layout = "separate",
    ) -> "Vocabulary":
        """Return the vocabulary for codes, modality -> (N, L), with codebook_size codes a level, or more where used."""
        sizes = {m: tuple(max(codebook_size, int(top) + 1) for top in table.max(axis=0)) for m, table in codes.items()}
        return cls(tasks, sizes, layout)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have IDs."""
        return tuple(self.codebook_sizes)

    @cached_property
    def offsets(self) -> dict[str, tuple[int, ...]]:
        """The token of code 0, per modality and level."""
        offsets, token = {}, self._first_code
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
        return self._first_code + sum(sum(sizes) for sizes in self.codebook_sizes.values())

    @property
    def slots(self) -> NDArray[np.int64]:
        """The place of each token (V,) in an ID that joins all modalities; NO_SLOT for padding and marks.

        The end and the tokens of tasks have slot 0, as what begins an item has.
        """
        slots = np.zeros(self.size, dtype=np.int64)
        slots[[PAD, *([self.mark] if self.mark is not None else [])]] = NO_SLOT
        levels = [size for sizes in self.codebook_sizes.values() for size in sizes]
        slots[self._first_code :] = np.repeat(np.arange(len(levels)), levels)
        return slots

    @property
    def task_tokens(self) -> range:
        """The tokens of tasks."""
        return task_tokens(self.tasks)

    @property
    def mark(self) -> int | None:
        """The token at each change of modality in a joint ID; None where there is none."""
        return self.task_tokens.stop if self.layout == "marked" else None

    def prefix(self, task: Task) -> tuple[int, ...]:
        """Return the tokens that a source of task starts with: none for a recommendation task."""
        return (self.task_tokens[self._prefixed.index(task)],) if task in self._prefixed else ()

    def tokens(self, modality: str, codes: NDArray[np.integer[Any]]) -> Tokens:
        """Return the tokens (N, L) of codes (N, L); raise DataError where they do not fit modality's codebooks."""
        sizes = self.codebook_sizes[modality]
        if codes.ndim != 2 or codes.shape[1] != len(sizes) or (codes.size and (codes >= sizes).any()):  # noqa: PLR2004
            found = f"{codes.shape} up to {codes.max(axis=0).tolist() if codes.size else []}"
            raise DataError(f"IDs of {modality}: expected codes below {list(sizes)}, found {found}")
        return (codes + np.array(self.offsets[modality])).astype(np.uint16)

    def all_tokens(self, codes: Mapping[str, NDArray[np.integer[Any]]]) -> dict[str, Tokens]:
        """Return the tokens (N, L) of every ID that items with these codes, modality -> (N, L), have: JOINT's is last.

        Codes [[3, 5]] of text and [[1, 0]] of image, joined with marks, are text's two tokens, the mark, and image's.

        Raises DataError where codes do not fit the codebooks.
        """
        own = {modality: self.tokens(modality, codes[modality]) for modality in self.modalities}
        if self.layout not in JOINING:
            return own
        parts = list(own.values())
        if self.mark is not None:
            mark = np.full((len(parts[0]), 1), self.mark, dtype=np.uint16)
            parts = [part for tokens in parts for part in (mark, tokens)][1:]
        return own | {JOINT: np.hstack(parts)}

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
            "layout": self.layout,
        }

    @classmethod
    def from_json(cls, document: Any) -> "Vocabulary":
        """Return the vocabulary that to_json wrote; raise TableError where it is not one."""
        try:
            tasks = tuple(Task.parse(task) for task in document["tasks"])
            layout = document["layout"]
            if layout not in get_args(Layout):
                raise KeyError(layout)
            return cls(tasks, {m: tuple(sizes) for m, sizes in document["codebook_sizes"].items()}, layout)
        except (KeyError, TypeError, AttributeError, ParamsError) as error:
            expected = "tasks, codebook_sizes and layout"
            raise TableError(f"vocabulary: expected {expected}, found {document!r:.200}") from error

    @property
    def _first_code(self) -> int:
        """The first of the tokens that are codes."""
        return first_code(self.tasks, layout=self.layout)

    @cached_property
    def _prefixed(self) -> tuple[Task, ...]:
        return prefixed(self.tasks)
