"""What every test may use: the real data where it is at hand, and parameter files with a few values changed."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import tessera  # noqa: F401 - before torch, so that its choice for torch's threads holds in tests too
from tests.pipeline_runs import write_params

# How long an example takes says nothing on a machine that others use too; the same examples come each time.
settings.register_profile("tessera", deadline=None, derandomize=True)
settings.load_profile("tessera")

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def the_same_draws() -> None:
    """Have torch draw the same in a test, whatever other tests ran in its process before."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Return a folder of the development data by its name; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        folder = SHARED_DATA / name
        if not folder.is_dir():
            pytest.skip(f"the development data set {name} is not beside the project")
        return folder

    return find


@pytest.fixture
def params_file(tmp_path: Path) -> Callable[..., Path]:
    """Return a params.yaml like the committed one but for dotted keys: `params_file({"filter.k": 2})`."""

    def write(changes: dict[str, Any] | None = None) -> Path:
        write_params(tmp_path / "params.yaml", changes or {})
        return tmp_path / "params.yaml"

    return write
