"""How pages are rendered: the report's, and those of experiment tables."""

from typing import Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

#: What Markdown would take for markup in a cell of a table.
_MARKUP: Final = str.maketrans({sign: "\\" + sign for sign in "\\`*_{}[]<>#|"} | {"\n": " "})


def page_environment(*packages: str) -> Environment:
    """Return what renders the templates of packages, those of the first before others of the same name.

    HTML is escaped, a name that is missing is an error, and Markdown has the filter `cell` for text in a table.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    return environment


def _cell(text: str) -> str:
    return text.translate(_MARKUP)
