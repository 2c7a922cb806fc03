"""Who may import whom: the three islands and the report meet only in Parquet; experiments read what runs left."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tessera"
ISLANDS = ("items", "codes", "recommender", "report")
#: What an island may take from outside: it depends on no other, and on no parameter or file.
SHARED = {"errors", "kmeans", "measures", "pages", "parquet", "products", "residual", "schemas", "tasks", "usage"}
FILES = sorted(SOURCE.rglob("*.py"))

#: Experiments are an island above the stages: they compose parameters and read artifacts.
EXPERIMENTS_MAY_IMPORT = {"experiments", "artifacts", "compose", "errors", "measures", "pages", "params", "schemas"}
#: Its commands are an edge, as the stages and the command line are: here a rank gets its worth from the recommender.
EXPERIMENTS_EDGE = SOURCE / "experiments" / "commands.py"


def imports(file: Path, *, at_module_level: bool) -> set[str]:
    tree = ast.parse(file.read_text())
    nodes = tree.body if at_module_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("island", ISLANDS)
def test_islands_import_only_themselves_and_errors(island):
    files = [file for file in FILES if file.relative_to(SOURCE).parts[0] == island]
    assert len(files) > 1
    for file in files:
        for module in imports(file, at_module_level=False):
            if module.split(".")[0] == "tessera":
                assert module.split(".")[1] in SHARED | {island}, f"{file.name} imports {module}"


def test_experiments_import_no_other_island_but_for_the_worth_of_a_rank():
    files = [file for file in FILES if file.relative_to(SOURCE).parts[0] == "experiments"]
    assert EXPERIMENTS_EDGE in files
    for file in files:
        for module in imports(file, at_module_level=False):
            if module.split(".")[0] == "tessera":
                allowed = module.split(".")[1] in EXPERIMENTS_MAY_IMPORT
                at_the_edge = file == EXPERIMENTS_EDGE and module in {"tessera.recommender.metrics", "tessera.runtime"}
                assert allowed or at_the_edge, f"{file.name} imports {module}"


def test_infrastructure_imports_no_island():
    for file in FILES:
        if file.parent == SOURCE and file.name != "cli.py":
            for module in imports(file, at_module_level=False):
                parts = module.split(".")
                assert parts[0] != "tessera" or len(parts) == 1 or parts[1] not in {*ISLANDS, "experiments"}, (
                    f"{file.name}: {module}"
                )


@pytest.mark.parametrize(("package", "users"), [("encoders", {"encoders", "using"}), ("using", {"using", "cli.py"})])
def test_what_binds_parameters_to_islands_stands_above_them(package, users):
    """`import tessera` gives Recommender lazily; stages may import anything."""
    for file in FILES:
        if file.relative_to(SOURCE).parts[0] not in {*users, "__init__.py"}:
            assert not {m for m in imports(file, at_module_level=False) if m.startswith(f"tessera.{package}")}, (
                file.name
            )


def test_nothing_imports_dvc_when_it_is_imported():
    for file in FILES:
        assert not {m.split(".")[0] for m in imports(file, at_module_level=True)} & {"dvc", "dvclive"}, file.name


def test_stages_never_import_each_other():
    for file in (SOURCE.parents[1] / "stages").glob("*.py"):
        assert not any(m.split(".")[0] == "stages" for m in imports(file, at_module_level=False)), file.name


def test_no_module_is_named_for_leftovers():
    assert not {file.stem for file in FILES} & {"utils", "helpers", "common", "misc", "util"}
