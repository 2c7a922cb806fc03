"""What a user types and sees at the command line."""

from typing import NamedTuple

import pytest

from tessera import cli


class Told(NamedTuple):
    """How a command ended."""

    status: int
    printed: str
    complaint: str


def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> Told:
    """Run `tessera` with arguments in this process."""
    monkeypatch.setattr("sys.argv", ["tessera", *map(str, arguments)])
    with pytest.raises(SystemExit) as exited:
        cli.app()
    printed = capsys.readouterr()
    return Told(exited.value.code, printed.out, printed.err)
