"""Multimodal generative recommendation as a DVC pipeline."""

import gc
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tessera.using.recommender import Recommender

__all__ = ["Recommender"]

# Before torch starts its threads, which is why stages leave importing torch to the library. GNU OpenMP's threads spin
# for milliseconds while they wait for each other, which is fast on idle cores and several times slower than one thread
# where another program uses a core too; never spinning is slow on idle cores. So they spin about as long as it takes
# to wake a thread, and sleep then.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
    os.environ["GOMP_SPINCOUNT"] = "3000"

# Importing torch and transformers makes a million objects that stay. At Python's own threshold the collector goes
# through them again and again, which is a fifth of the time that the imports take.
gc.set_threshold(50_000, *gc.get_threshold()[1:])


def __getattr__(name: str) -> Any:
    """Import Recommender when it is asked for: with it come torch and transformers."""
    if name != "Recommender":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tessera.using.recommender import Recommender

    return Recommender
