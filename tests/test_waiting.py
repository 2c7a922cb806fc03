"""One warning where threads wait long for cores, and silence else."""

import pytest

from tessera import waiting
from tessera.waiting import SHARE, STRETCH, seconds_waited, watched


@pytest.fixture(autouse=True)
def nobody_decided(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.fixture
def work(monkeypatch, caplog):
    """Do so many elements of one second each, in which threads wait so long, and return what was told."""

    def done(elements, *, waits):
        now = [0.0]
        monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(waiting, "seconds_waited", lambda: now[0] * waits)
        for place, element in enumerate(watched(range(elements))):
            assert element == place
            now[0] += 1.0
        assert now[0] == elements
        return caplog.messages

    return done


def test_it_is_told_once(work):
    [told] = work(10 * int(STRETCH), waits=1.5)
    assert told.startswith(f"of the last {STRETCH:.0f} s threads waited {1.5 * STRETCH:.0f} s for a core")
    assert "OMP_WAIT_POLICY=passive" in told


def test_little_waiting_and_short_work_are_not_told(work):
    assert work(10 * int(STRETCH), waits=SHARE) == []
    assert work(int(STRETCH) - 1, waits=1.5) == []


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("OMP_NUM_THREADS", "1")])
def test_whoever_decided_is_not_told(work, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert work(10 * int(STRETCH), waits=1.5) == []


def test_only_the_last_stretch_counts(monkeypatch, caplog):
    """A minute of quiet does not hide what comes after it."""
    now, waited = [0.0], [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(waiting, "seconds_waited", lambda: waited[0])
    for _ in watched(range(100)):
        now[0] += 1.0
        waited[0] += now[0] > 60
    assert len(caplog.messages) == 1


def test_threads_are_added_up_and_what_has_ended_is_passed_over(tmp_path):
    for thread, text in {"1": "5 1500000000 2\n", "2": "7 250000000 1\n", "3": "", "4": "0 x 0"}.items():
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(text)
    (tmp_path / "5").mkdir()
    assert seconds_waited(tmp_path) == 1.75
    assert seconds_waited(tmp_path / "nowhere") == 0


def test_what_the_system_tells_only_grows():
    before = seconds_waited()
    assert 0 <= before <= seconds_waited()
