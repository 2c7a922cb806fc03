import json

import pytest

from tessera.errors import ParamsError
from tessera.experiments.tables import load_table, narrowed
from tests.pipeline_runs import ROOT

TABLES = sorted(file.stem for file in (ROOT / "experiments").glob("*.yaml"))

TABLE = {
    "title": "Two systems",
    "datasets": ["demo"],
    "seeds": 2,
    "rows": {
        "one": {"overrides": ["system=tiger"], "published": {"demo": {"HR@10": 0.5}}},
        "two": {"overrides": None},
        "three": {"overrides": []},
    },
}


@pytest.fixture
def table_of(tmp_path):
    def load(changes):
        (tmp_path / "mine.yaml").write_text(json.dumps({**TABLE, **changes}, indent=2))
        return load_table(tmp_path, "mine")

    return load


def row(**changes):
    return {"rows": {"one": {**TABLE["rows"]["one"], **changes}}}


def test_a_table_has_the_usual_measures_where_it_names_none(table_of):
    table = table_of({})
    assert table.measures == {"HR@10": "evaluate.final.hr@10", "NDCG@10": "evaluate.final.ndcg@10"}
    assert table.rows["one"].published == {"demo": {"HR@10": 0.5}}
    assert table.rows["two"].overrides is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": 3}, r"mine\.yaml: sedes: expected no such key, found 3"),
        ({"seeds": "3"}, r"mine\.yaml: seeds: expected an integer, found '3'"),
        ({"seeds": 0}, r"seeds: .*greater than or equal to 1, found 0"),
        ({"rows": {}}, r"rows: .*at least 1"),
        ({"title": "a\x1b[31mb"}, r"title: expected a line of text without control characters"),
        ({"rows": {"a\nb": {"overrides": []}}}, r"(?s)rows\..*: expected a line of text without control characters"),
        ({"datasets": ["../demo"]}, r"datasets\.0: .*match pattern"),
        ({"measures": {"HR@10": "hr@10"}}, r"measures\.HR@10: .*match pattern.*found 'hr@10'"),
        (row(overrides="system=tiger"), r"rows\.one\.overrides: .*list, found 'system=tiger'"),
        (row(overrides=["system"]), r"rows\.one\.overrides\.0: .*match pattern.*found 'system'"),
        (row(override=[]), r"rows\.one\.override: expected no such key"),
        (
            row(published={"demo": {"HR@10": "0.5"}}),
            r"rows\.one\.published\.demo\.HR@10: expected a float, found '0\.5'",
        ),
        (row(published={"arts": {"HR@10": 0.5}}), r"rows\.one\.published: expected one of \['demo'\], found 'arts'"),
        (
            row(published={"demo": {"HR@5": 0.5}}),
            r"rows\.one\.published\.demo: expected one of \['HR@10', 'NDCG@10'\], found 'HR@5'",
        ),
    ],
)
def test_slips_are_named(table_of, changes, message):
    with pytest.raises(ParamsError, match=message):
        table_of(changes)


def test_a_missing_key_is_named(table_of, tmp_path):
    table_of({})
    file = tmp_path / "mine.yaml"
    file.write_text(file.read_text().replace('"title": "Two systems",', ""))
    with pytest.raises(ParamsError, match=r"mine\.yaml: title: expected a value, found nothing"):
        load_table(tmp_path, "mine")


def test_an_unknown_table_brings_up_the_known_ones(table_of, tmp_path):
    table_of({})
    with pytest.raises(ParamsError, match=r"yours: expected a table of .*, one of \['mine'\], found none such"):
        load_table(tmp_path, "yours")


def test_a_table_can_be_narrowed(table_of):
    table = table_of({})
    kept = narrowed(table, rows=["three", "one"], datasets=["arts"], seeds=5)
    assert (list(kept.rows), kept.datasets, kept.seeds) == (["one", "three"], ["arts"], 5)
    assert kept.title == "Two systems; of 3 rows one, three"
    assert narrowed(table, rows=[], datasets=[], seeds=None) == table
    with pytest.raises(ParamsError, match=r"four: expected a row of the table, one of \['one', 'two', 'three'\]"):
        narrowed(table, rows=["four"], datasets=[], seeds=None)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_of_the_project_can_be_read(name):
    assert load_table(ROOT / "experiments", name).rows


def test_published_figures_are_those_of_the_paper():
    """One of each table, among them the last."""
    table2, table3, table4 = (load_table(ROOT / "experiments", f"macrec_table{number}").rows for number in (2, 3, 4))
    assert table2["MACRec"].published["instruments"]["NDCG@10"] == 0.1046
    assert table2["BERT4Rec"].published["games"]["NDCG@10"] == 0.0366
    assert table3["without explicit alignment tasks"].published["games"]["HR@10"] == 0.1037
    assert table4["MACRec"].published["games"]["image"] == 25.24


def test_the_readme_names_every_table():
    rows = [
        line.split("|")[1].strip() for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")
    ]
    assert set(TABLES) <= {name for row in rows for name in row.split(", ")}
