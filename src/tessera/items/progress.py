"""How long work tells how far it is: a callable that whoever starts the work passes in."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Element = TypeVar("Element")


class Progress(Protocol):
    """What yields elements, and tells how far it is."""

    def __call__(self, elements: Iterable[Element], *, title: str, total: int | None = None) -> Iterator[Element]:
        """Yield elements, of which there are total."""


def silently(elements: Iterable[Element], *, title: str, total: int | None = None) -> Iterator[Element]:  # noqa: ARG001
    """Yield elements and tell nothing."""
    yield from elements
