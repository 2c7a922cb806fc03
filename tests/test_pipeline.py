"""dvc.yaml, params.yaml, conf/, the stages and the README tell the same story."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tessera.compose import composed
from tessera.params import AmazonDataset, DemoDataset, FolderDataset, Params, load_params

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tessera"
STAGES = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
ORDER = [
    "download_reviews",
    "fetch_images",
    "filter_reviews",
    "embed_text",
    "distill_images",
    "embed_images",
    "embed_collaborative",
    "cluster_items",
    "train_quantizer",
    "resolve_collisions",
    "build_corpus",
    "train_t5",
    "rank_items",
    "rank_collaborative",
    "evaluate",
    "write_report",
]
#: What each command begins with, so that a copy of the repository runs its own package, before what else there is.
OWN_CODE = "PYTHONPATH=src:$PYTHONPATH"
# These can make a stage fail but not change what it writes, so they are not dependencies.
INFRASTRUCTURE = {
    SOURCE / f"{name}.py"
    for name in (
        "__init__",
        "artifacts",
        "bars",
        "checkpoints",
        "compose",
        "curves",
        "errors",
        "parquet",
        "params",
        "places",
        "records",
        "row_files",
        "runtime",
        "schemas",
    )
}
# A stage that needs one of these at run time imports it at run time.
HEAVY = ("torch", "transformers", "sklearn", "open_clip", "timm", "accelerate", "dvc")
NEEDS_TORCH = {"train_quantizer", "resolve_collisions", "train_t5", "rank_items"}
# What only says where to run cannot change a result.
NOT_A_DEPENDENCY = {"device"}
RUNNING = {"device", "launcher"}


def imported_modules(source: Path) -> set[Path]:
    """The tessera files that source imports, directly or through another tessera file, at the top or in a function."""
    found: set[Path] = set()
    pending = [source]
    while pending:
        for node in ast.walk(ast.parse(pending.pop().read_text())):
            for module in tessera_files(node) - found:
                found.add(module)
                if module not in INFRASTRUCTURE:  # which changes nothing that is written, whatever it imports for that
                    pending.append(module)
    return found


def tessera_files(node: ast.AST) -> set[Path]:
    names = []
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tessera":
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names if alias.name.split(".")[0] == "tessera"]
    files = (ROOT / "src" / Path(*name.split(".")).with_suffix(".py") for name in names)
    return {file for file in files if file.is_file()}


def code_dependencies(stage: str) -> set[str]:
    script = ROOT / "stages" / f"{stage}.py"
    files = {script} | imported_modules(script) - INFRASTRUCTURE
    return {str(file.relative_to(ROOT)) for file in files}


def read_parameters(stage: str) -> set[str]:
    """The keys that the stage's script reads: of `params.quant` all of the section, of `params.filter.k` the one."""
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    chains = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    inner = {id(node.value) for node in chains}
    if any(ast.unparse(node) == "params.model_dump" for node in chains):  # all of them, to be shown
        return expanded(set(Params.model_fields) - RUNNING)
    dotted = {
        ".".join(ast.unparse(node).split(".")[1:3]) for node in chains if id(node) not in inner and is_of_params(node)
    }
    return expanded(name if is_parameter(name) else name.split(".")[0] for name in dotted) - NOT_A_DEPENDENCY


def is_of_params(node: ast.Attribute) -> bool:
    return re.match(r"params\.\w+", ast.unparse(node)) is not None


def is_parameter(name: str) -> bool:
    section, _, key = name.partition(".")
    return not key or key in keys_of(section)


def keys_of(section: str) -> set[str]:
    if section == "dataset":
        return set.intersection(*(set(each.model_fields) for each in (DemoDataset, AmazonDataset, FolderDataset)))
    return set(getattr(Params.model_fields[section].annotation, "model_fields", {}))


def expanded(names: Iterable[str]) -> set[str]:
    """Sections as all of their keys; the data set as a whole stands for itself."""
    found = set()
    for name in names:
        keys = keys_of(name) if "." not in name and name != "dataset" else set()
        found |= {f"{name}.{key}" for key in keys} or {name}
    return found


def outputs(stage: str) -> set[str]:
    spec = STAGES[stage]
    entries = [*spec["outs"], *spec.get("metrics", []), *spec.get("plots", [])]
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def test_the_stages_are_those_of_the_design_in_the_order_of_the_work():
    assert list(STAGES) == ORDER
    assert {file.stem for file in (ROOT / "stages").glob("*.py")} == set(ORDER)


def test_a_copy_of_the_repository_runs_the_code_that_is_in_it(tmp_path):
    """As DVC's copies for experiments do: the environment has another one installed, that of the working tree."""
    (tmp_path / "src" / "tessera").mkdir(parents=True)
    (tmp_path / "src" / "tessera" / "__init__.py").write_text("")
    ask = "python -c 'import tessera; print(tessera.__file__)'"
    told = [
        subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for line in (f"{OWN_CODE} {ask}", ask)
    ]
    assert Path(told[0].strip()).resolve().is_relative_to(tmp_path.resolve())
    assert not Path(told[1].strip()).resolve().is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize("stage", STAGES)
def test_one_name(stage):
    launched = r"python|\$\{launcher\}"
    assert re.match(rf"{re.escape(OWN_CODE)} ({launched}) stages/{stage}\.py ", STAGES[stage]["cmd"])
    own_folders = (f"data/{stage}/", f"metrics/{stage}.json", f"metrics/plots/{stage}", "report/", "metrics/report.md")
    assert all(path.startswith(own_folders) for path in outputs(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_is_described_in_the_imperative_by_its_docstring_too(stage):
    docstring = ast.get_docstring(ast.parse((ROOT / "stages" / f"{stage}.py").read_text()))
    description = STAGES[stage]["desc"]
    assert description.endswith(".")
    assert docstring
    assert docstring.split()[0] == description.split()[0]


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_exactly_what_the_stage_imports(stage):
    listed = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py") or dep.startswith("src/")}
    expected = code_dependencies(stage)
    assert listed >= expected, f"dvc.yaml: {stage} lacks {sorted(expected - listed)}"
    surplus = {dep for dep in listed - expected if dep.endswith(".py")}
    assert not surplus, f"dvc.yaml: {stage} lists {sorted(surplus)}, which it does not import"


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_are_exactly_those_the_stage_reads(stage):
    assert expanded(STAGES[stage]["params"]) == read_parameters(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_every_path_on_the_command_line_is_declared(stage):
    on_command_line = {word.partition("=")[2] or word for word in STAGES[stage]["cmd"].split() if "/" in word}
    assert on_command_line <= {*STAGES[stage]["deps"], *outputs(stage)}


@pytest.mark.parametrize("stage", STAGES)
def test_every_declared_path_is_on_the_command_line(stage):
    on_command_line = {word.partition("=")[2] or word for word in STAGES[stage]["cmd"].split()}
    data = {dep for dep in STAGES[stage]["deps"] if dep.startswith("data/")}
    assert data | outputs(stage) <= on_command_line


def test_every_input_is_an_output_of_an_earlier_stage():
    made: set[str] = set()
    for stage, spec in STAGES.items():
        data = {dep for dep in spec["deps"] if dep.startswith(("data/", "metrics/"))}
        assert data <= made, stage
        made |= outputs(stage)


def test_metrics_and_plots_are_kept_in_git_and_nothing_else_is():
    """DVC's run cache takes no stage with another output that it does not cache; the report is made in no time."""
    for stage, spec in STAGES.items():
        for entry in [*spec.get("metrics", []), *spec.get("plots", [])]:
            ((path, properties),) = entry.items()
            assert path.startswith("metrics/"), stage
            assert properties["cache"] is False, path
        uncached = [entry for entry in spec["outs"] if isinstance(entry, dict)]
        assert uncached == ([{"metrics/report.md": {"cache": False}}] if stage == "write_report" else [])


def test_every_plot_draws_what_a_stage_writes():
    made = {path for stage in STAGES for path in outputs(stage)}
    for plot in YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["plots"]:
        ((name, properties),) = plot.items()
        assert properties.keys() >= {"title", "x_label", "y_label"}, name
        for path in properties["y"]:
            assert any(path == each or path.startswith(f"{each}/") for each in made), path
        template = properties.get("template")
        assert template is None or (ROOT / ".dvc" / "plots" / f"{template}.json").is_file()


def test_seed_is_a_parameter_of_the_stages_that_draw_random_numbers_alone():
    with_seed = {stage for stage in STAGES if "seed" in STAGES[stage]["params"]}
    assert not with_seed & {"download_reviews", "fetch_images", "filter_reviews", "resolve_collisions", "build_corpus"}


@pytest.mark.parametrize("stage", STAGES)
def test_help_explains_the_stage_and_imports_nothing_heavy_that_it_does_not_need(stage):
    """One process a stage: what `--help` prints, and which heavy modules stand in sys.modules afterwards."""
    unneeded = HEAVY if stage not in NEEDS_TORCH else ("dvc",)
    code = (
        "import atexit, sys, runpy\n"
        f"sys.argv = ['stages/{stage}.py', '--help']\n"
        f"atexit.register(lambda: print('HEAVY', sorted(set({unneeded!r}) & set(sys.modules))))\n"
        f"runpy.run_path('stages/{stage}.py', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    told = re.sub(r"[\s│╭╮╰╯─]+", " ", done.stdout)
    assert "--params" in told
    assert STAGES[stage]["desc"].split()[0] in told
    assert done.stdout.strip().endswith("HEAVY []")


def test_conf_composes_to_the_committed_params():
    staged = subprocess.run(["git", "show", ":params.yaml"], capture_output=True, text=True, cwd=ROOT, check=False)
    committed = staged.stdout if staged.returncode == 0 else (ROOT / "params.yaml").read_text()
    assert committed == composed(ROOT / "conf"), "params.yaml is not what conf/ composes to: run `make params`"


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (ROOT / "conf" / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "override", [f"{group}={name}" for group in ("dataset", "encoder", "system", "scale") for name in choices(group)]
)
def test_every_choice_of_every_group_composes_to_valid_parameters(override, tmp_path):
    file = tmp_path / "params.yaml"
    needed = {"dataset=folder": ["dataset.path=shop"], "encoder=precomputed": ["text.path=x", "image.path=y"]}
    file.write_text(composed(ROOT / "conf", [override, *needed.get(override, [])]))
    params = load_params(file)
    group, name = override.split("=")
    chosen = getattr(params, group)
    assert (chosen.name if group == "dataset" else chosen) == name


#: Where keys are explained; the other files of a group only choose other values.
EXPLAINED = ["config.yaml", "encoder/builtin.yaml", "scale/paper.yaml", "system/macrec.yaml"]


@pytest.mark.parametrize("name", [*EXPLAINED, *(f"dataset/{name}.yaml" for name in choices("dataset"))])
def test_every_parameter_is_explained_in_conf(name):
    """A comment stands above a key, or above the first of the keys that stand with it in one section."""
    explained = {0: name.startswith("dataset/")}  # name and format are told of at the top
    for number, line in enumerate((ROOT / "conf" / name).read_text().splitlines(), start=1):
        indent = len(line) - len(line.lstrip())
        explained = {level: known for level, known in explained.items() if level <= indent}
        if line.lstrip().startswith("#"):
            explained[indent] = "@package" not in line
        elif re.match(r" *\w+: \S", line) and not line.startswith(("system:", "scale:", "encoder:", "format:")):
            assert explained.get(indent), f"conf/{name}, line {number}: expected a comment above {line.strip()!r}"


def test_every_file_of_conf_says_what_it_is():
    for file in sorted((ROOT / "conf").rglob("*.yaml")):
        first = next(line for line in file.read_text().splitlines() if "@package" not in line)
        assert first.startswith("#"), f"{file.relative_to(ROOT)}: expected a comment that says what it is"


def test_the_readmes_stage_table_says_what_dvc_yaml_says():
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "README.md").read_text().splitlines() if "|" in line]
    told = {row[0]: row for row in rows if row[0] in STAGES}
    assert list(told) == list(STAGES)
    for name, (_, section, description) in told.items():
        assert description == STAGES[name]["desc"]
        assert section in {parameter.split(".")[0] for parameter in STAGES[name]["params"]}


def test_the_readmes_choices_are_those_of_conf():
    text = (ROOT / "README.md").read_text()
    for group in ("dataset", "encoder", "system", "scale"):
        row = next(line for line in text.splitlines() if line.startswith(f"| {group} |"))
        assert not [name for name in choices(group) if name not in row], row
