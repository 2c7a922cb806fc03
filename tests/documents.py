"""The commands that the README and the pages of docs/ tell their readers to type."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests.pipeline_runs import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: What a line of an indented block begins with if it is a command.
_PROGRAMS = re.compile(r"(?:[A-Z_]+=\S+ )?(?:dvc|tessera|make|python|git|source) ")
_COMMENT = re.compile(r"\s{2,}#.*$")


class Command(NamedTuple):
    """A command of a page."""

    page: str
    text: str  # without its comment, on one line

    @property
    def words(self) -> list[str]:
        """The words that a shell makes of it."""
        return shlex.split(self.text)

    @property
    def overrides(self) -> list[str]:
        """What stands after each -S or --set-param."""
        words = self.words
        return [after for word, after in pairwise(words) if word in {"-S", "--set-param"}]


def commands_of(page: Path) -> list[Command]:
    """Return the commands of the indented blocks of page, in their order; a backslash joins lines."""
    lines = page.read_text().replace("\\\n", " ").splitlines()
    indented = [_COMMENT.sub("", line).strip() for line in lines if line.startswith("    ")]
    return [Command(page.name, " ".join(line.split())) for line in indented if _PROGRAMS.match(f"{line} ")]


def anchors_of(page: Path) -> set[str]:
    """Return what may stand after the # of a link to page: the titles of its sections, as GitHub spells them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links_of(page: Path) -> list[str]:
    """Return where the links and pictures of page lead, but for those to other hosts."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [link for link in links if not link.startswith(("http://", "https://"))]


def uses_a_model(command: Command) -> bool:
    """Whether a command recommends, looks around, adds items or exports: tests/using/test_commands.py runs these."""
    return command.words[:1] == ["tessera"] and command.words[1] in {"recommend", "similar", "add-items", "export"}
