import io
import logging

import pytest
from rich.console import Console

from tessera import bars, runtime
from tessera.bars import in_a_bar, in_lines


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but where a test moves it."""
    now = [100.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    return now


def lines_of(caplog, clock, *, elements, seconds):
    with caplog.at_level(logging.INFO, logger="tessera"):
        for _ in in_lines(range(elements), title="epochs", total=elements):
            clock[0] += seconds
    return caplog.messages


def test_a_line_each_tenth_with_rate_and_time_left(caplog, clock):
    lines = lines_of(caplog, clock, elements=20, seconds=4.0)
    assert lines[0] == "epochs: 2 of 20, 0.25/s, 72 s left"
    assert [line.split(",")[0] for line in lines] == [f"epochs: {done} of 20" for done in range(2, 20, 2)]


def test_lines_keep_apart_in_time(caplog, clock):
    """Half a second each: a tenth is a second, so that a line may come each five tenths."""
    assert lines_of(caplog, clock, elements=20, seconds=0.5) == ["epochs: 10 of 20, 2/s, 5 s left"]


def test_what_is_soon_done_says_nothing(caplog, clock):
    assert lines_of(caplog, clock, elements=1000, seconds=0.001) == []


def test_a_number_of_elements_that_is_not_known_says_nothing(caplog):
    assert list(in_lines(iter("abc"), title="letters", total=None)) == ["a", "b", "c"]
    assert caplog.messages == []


def test_a_bar_tells_title_count_and_rate_and_takes_no_markup():
    told = io.StringIO()
    console = Console(file=told, force_terminal=True, width=120)
    for element in in_a_bar(range(3), title="[red]epochs", total=3, console=console):
        assert element in {0, 1, 2}
    assert "[red]epochs" in told.getvalue()
    assert "3/3" in told.getvalue()


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_only_the_first_process_tells(monkeypatch, caplog, clock, rank, lines):
    monkeypatch.setenv("RANK", rank)
    with caplog.at_level(logging.INFO, logger="tessera"):
        for _ in runtime.progress([1, 2], title="halves"):
            clock[0] += 10
    assert len(caplog.messages) == lines
