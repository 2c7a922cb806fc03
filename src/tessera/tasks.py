"""The grammar of corpus.tasks: what samples the T5 learns from, and over which IDs.

It stands apart from the vocabulary, since parameters are checked by it before anything is run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tessera.errors import ParamsError
from tessera.schemas import JOINING, JOINT

#: The tokens before those of tasks and codes are padding and the end; there are as many in all as 16 bits tell apart.
FIRST_FREE: Final = 2
MOST_TOKENS: Final = 2**16

#: Whether and how the IDs of an item's modalities are joined; IDs of fused vectors are one modality's from the start.
Layout = Literal["separate", "concatenated", "marked", "fused"]

#: Which tasks score, in full, all items that the search found in any list of IDs; without, a list is what it found.
Rescoring = Literal["none", "recommendation", "history"]


@dataclass(frozen=True)
class Task:
    """One way to make samples: `history text -> image` or `item text -> image`.

    A history task reads the source modality's IDs of a user's history and tells the next item's target ID; an item
    task reads an item's source ID and tells the same item's target ID. `history text ~> image` shares the histories
    with `history image ~> text`: of each, a draw makes a sample of the one or of the other.
    """

    kind: str
    source: str
    target: str
    is_shared: bool = False

    @classmethod
    def parse(cls, text: str) -> "Task":
        """Return the task that text spells; raise ParamsError where it spells none.

        >>> Task.parse("history text -> image")
        Task(kind='history', source='text', target='image')
        """
        match text.split():
            case ["history" | "item" as kind, source, "->", target] if kind == "history" or source != target:
                return cls(kind, source, target)
            case ["history", source, "~>", target] if source != target and JOINT not in (source, target):
                return cls("history", source, target, is_shared=True)
        raise ParamsError(
            f"corpus.tasks: expected 'history MODALITY -> MODALITY', 'history MODALITY ~> OTHER' or "
            f"'item MODALITY -> OTHER', found {text!r}"
        )

    @property
    def is_recommendation(self) -> bool:
        """Whether a task ranks items: it tells the next one in the modality that it reads, or in one of all."""
        return self.kind == "history" and self.source in (self.target, JOINT)

    @property
    def ranking(self) -> str:
        """The name of the ranking that a history task makes.

        >>> Task.parse("history text -> text").ranking, Task.parse("history text -> image").ranking
        ('text', 'text_to_image')
        """
        return self.target if self.is_recommendation else f"{self.source}_to_{self.target}"

    @property
    def mirrored(self) -> "Task":
        """The task from the target to the source."""
        return Task(self.kind, self.target, self.source, self.is_shared)

    def __str__(self) -> str:
        return f"{self.kind} {self.source} {'~>' if self.is_shared else '->'} {self.target}"


def parse_tasks(texts: list[str], modalities: list[str], *, layout: Layout = "separate") -> tuple[Task, ...]:
    """Return the tasks that texts spell over the IDs of modalities and, where the layout joins them, of JOINT.

    Without modalities there may be none. Raises ParamsError for a repeated task, one that names other IDs, one that
    shares histories with a task that is not there, and two that rank by the same IDs, and where no task ranks.
    """
    known = [*modalities, JOINT] if layout in JOINING else modalities
    tasks = tuple(Task.parse(text) for text in texts)
    if len(set(tasks)) < len(tasks):
        raise ParamsError(f"corpus.tasks: expected distinct tasks, found {texts}")
    for task in tasks:
        if unknown := {task.source, task.target} - set(known):
            raise ParamsError(f"corpus.tasks: expected modalities among {known}, found {sorted(unknown)} in '{task}'")
        if task.is_shared and task.mirrored not in tasks:
            raise ParamsError(
                f"corpus.tasks: expected '{task.mirrored}' beside '{task}', which leaves half of the "
                f"histories to it, found {texts}"
            )
    ranked = [task.target for task in tasks if task.is_recommendation]
    if modalities and not ranked:
        raise ParamsError(f"corpus.tasks: expected at least one 'history MODALITY -> same MODALITY', found {texts}")
    if len(set(ranked)) < len(ranked):
        raise ParamsError(f"corpus.tasks: expected one recommendation task at most for each target, found {texts}")
    return tasks


def scoring(tasks: Sequence[Task], rescoring: Rescoring) -> tuple[Task, ...]:
    """Return those of tasks whose scores are rankings: all that recommend and, where all of `history` rescore, others.

    These are the history tasks across modalities that read what a task that recommends reads.
    """
    read = {task.source for task in tasks if task.is_recommendation}
    return tuple(
        task
        for task in tasks
        if task.is_recommendation or (rescoring == "history" and task.kind == "history" and task.source in read)
    )


def prefixed(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Return those of tasks whose samples begin with a token of the task."""
    return tuple(task for task in tasks if not task.is_recommendation)


def task_tokens(tasks: Sequence[Task]) -> range:
    """Return the tokens of tasks, one for each that is prefixed."""
    return range(FIRST_FREE, FIRST_FREE + len(prefixed(tasks)))


def first_code(tasks: Sequence[Task], *, layout: Layout) -> int:
    """Return the first token that is a code: what comes before is for tasks and, where IDs are marked, for the mark."""
    return task_tokens(tasks).stop + (layout == "marked")
