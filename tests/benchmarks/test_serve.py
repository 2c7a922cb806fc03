"""The benchmark of serving runs on a small shop, at which its figures mean nothing."""

import pytest

from tests.benchmarks.scripts import figures_of
from tests.pipeline_runs import SMALL, STAGES, run_stages


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return run_stages([stage for stage in STAGES if stage != "write_report"], tmp_path / "run", SMALL)


def test_together_and_alone_give_the_same(run, tmp_path):
    found = figures_of("serve", "--model", str(run), "--peer-users", "6", "--runs", "1", folder=tmp_path)
    assert found["unit"] == "users/s"
    facts = found["cases"][0]["facts"]
    assert facts["largest difference of a score"] < 1e-4
    assert facts["share of lists that are the same"] == pytest.approx(1, abs=0.2)
