"""Tell what each stage does with its time; every Python that has this folder in PYTHONPATH imports this at its start.

A process that runs a stage adds a line to the file $STAGE_CLOCK when it ends: the stage, the seconds it spent on
imports, wherever they stand, the seconds inside its `main` without those, and whether torch was imported.
"""

import _frozen_importlib
import _thread
import atexit
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

#: Where the stage hands its `main` to the function `run`.
ENTRY = "tessera.runtime"


class Clock:
    """Seconds of imports and of own work in the main thread."""

    def __init__(self) -> None:
        self.imports = self.inside_main = self.imports_before_main = 0.0
        self.stage = ""
        self._depth = 0  # an import that another one causes is part of that one

    def importing(self, find_and_load: Callable[..., ModuleType]) -> Callable[..., ModuleType]:
        """Return find_and_load, timed."""
        main_thread = _thread.get_ident()

        def timed(name: str, import_: Any) -> ModuleType:
            if self._depth or _thread.get_ident() != main_thread:
                return self._watched(name, find_and_load(name, import_))
            start = time.perf_counter()
            self._depth += 1
            try:
                return self._watched(name, find_and_load(name, import_))
            finally:
                self._depth -= 1
                self.imports += time.perf_counter() - start

        return timed

    def _watched(self, name: str, module: ModuleType) -> ModuleType:
        if name == ENTRY and not hasattr(module.run, "__wrapped__"):
            run = module.run
            module.run = functools.wraps(run)(lambda main: run(self.timing(main)))  # type: ignore[attr-defined]
        return module

    def timing(self, main: Callable[..., None]) -> Callable[..., None]:
        """Return main, timed."""

        @functools.wraps(main)
        def timed(*arguments: Any, **options: Any) -> None:
            self.stage, self.imports_before_main = Path(sys.argv[0]).stem, self.imports
            start = time.perf_counter()
            try:
                main(*arguments, **options)
            finally:
                self.inside_main = time.perf_counter() - start

        return timed

    def tell(self, file: Path) -> None:
        """Add the line to file, if a stage has run."""
        if self.stage:
            own = self.inside_main - (self.imports - self.imports_before_main)
            line = {"stage": self.stage, "imports": self.imports, "own": own, "torch": "torch" in sys.modules}
            with file.open("a") as stream:
                stream.write(json.dumps(line) + "\n")


if "STAGE_CLOCK" in os.environ:
    clock = Clock()
    importlib = vars(_frozen_importlib)
    importlib["_find_and_load"] = clock.importing(importlib["_find_and_load"])
    atexit.register(clock.tell, Path(os.environ["STAGE_CLOCK"]))
