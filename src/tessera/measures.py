"""What metrics/evaluate.json holds: the measures of each test ranking, and beside them those of other parts.

{"text": {"hr@10": 0.5, ...}, ..., "final": {...}, "valid": {"text": {...}, ...}, "cold": ..., "warm": ...}: `final` is
the ranking that the others are in contest for, by a second name. Whoever reads the document takes it apart here.
"""

from collections.abc import Mapping
from typing import Any, Final

#: The ranking that is recommended by, under a second name.
FINAL: Final = "final"


def rankings_in(document: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the measures of each test ranking, `final` among them, and nothing of parts, whose values are rankings."""
    return {
        name: values
        for name, values in document.items()
        if values and not any(isinstance(value, Mapping) for value in values.values())
    }
