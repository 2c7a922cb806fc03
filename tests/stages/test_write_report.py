import json

import polars as pl
import pytest

from stages.write_report import main
from tessera.errors import TableError
from tessera.schemas import IDS
from tests.finished_run import HOSTILE, USERS_IN_ALL, finish_run, user_of


@pytest.fixture
def run(tmp_path, params_file):
    return finish_run(tmp_path / "run", params_file())


@pytest.fixture
def report(tmp_path, params_file):
    def write(run, **changes):
        html, markdown = tmp_path / "report" / "index.html", tmp_path / "metrics" / "report.md"
        params = params_file({name.replace("__", "."): value for name, value in changes.items()})
        main(**run.options, html=html, markdown=markdown, params_file=params)
        return html.read_text(), markdown.read_text()

    return write


@pytest.fixture(autouse=True)
def _folder(tmp_path):
    (tmp_path / "run").mkdir()


def test_what_is_written(run, report):
    html, markdown = report(run)
    measured = json.loads(run.evaluate.read_text())
    for page in (html, markdown):
        assert f"{measured['ensemble']['ndcg@10']:.4f}" in page
        assert f"{measured['valid']['popularity']['mrr']:.4f}" in page
        assert "macrec" in page
    assert html.count("data:image/webp;base64,") > 12
    assert "no picture" in html
    assert report(run) == (html, markdown)


def test_a_hostile_title_is_shown_as_text(run, report):
    html, _ = report(run, report__examples=30)
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html
    assert HOSTILE not in html
    assert "{{ 7 * 7 }}" in html


def test_items_that_were_given_codes_are_no_collision_of_the_quantizer(run, report):
    """Item 39, which has no vectors, had the codes of item 38 in both modalities; by a path lent to it in one."""
    is_last = pl.col("item") == 39
    given = pl.when(is_last).then(pl.lit([3, 8, 7], dtype=IDS["first_codes"])).otherwise("first_codes")
    pl.read_parquet(run.ids).with_columns(first_codes=given, moved=pl.col("moved") | is_last).write_parquet(run.ids)
    told, note = "2 items had an ID that others had too", "Items that lack the modality\n  are left out"
    html, _ = report(run)
    assert (html.count(told), note in html, html.count("6 items moved")) == (2, False, 2)
    measured = json.loads(run.collisions.read_text())
    measured["image"]["items_lent_a_path"] = 1
    run.collisions.write_text(json.dumps(measured))
    html, _ = report(run)
    assert (html.count(told), note in html) == (1, True)
    assert (html.count("6 items moved"), html.count("5 items moved")) == (1, 1)


def test_items_that_lack_all_modalities_are_no_collision_of_joint_ids(run, report):
    """Item 39 lacks both, and item 38 the pictures alone."""
    images = dict(part.split("=") for part in run.vectors)["image"]
    pl.read_parquet(images).with_columns(present=pl.col("item") < 38).write_parquet(images)
    joint = pl.read_parquet(run.ids).filter(modality="text").with_columns(modality=pl.lit("joint"))
    joint.with_columns(first_codes=pl.lit([1], dtype=IDS["first_codes"])).write_parquet(run.ids)
    rates = {"collision_rate_before": 97.5, "collision_rate_after": 0.0, "items_lent_a_path": 1}
    run.collisions.write_text(json.dumps({"joint": rates}))
    changes = {"ids__layout": "fused", "corpus__tasks": ["history joint -> joint"], "t5__lambda_implicit": 0.0}
    html, _ = report(run, quant__lambda_con=0.0, quant__lambda_align=0.0, **changes)
    assert "39 items had an ID that others had too" in html


def test_one_modality(tmp_path, params_file, report):
    run = finish_run(tmp_path / "run", params_file(), modalities=("text",))
    html, markdown = report(run, modalities=["text"], corpus__tasks=["history text -> text"])
    assert "in bold: text." in html
    assert "ensemble" not in markdown


def test_examples_and_seed_choose_the_users(run, report):
    def users(html):
        return [line for line in html.splitlines() if "<h3>User" in line]

    few, many, others = (
        report(run, **changes)[0]
        for changes in ({"report__examples": 4}, {"report__examples": 9}, {"seed": 1, "report__examples": 4})
    )
    assert (len(users(few)), len(users(many))) == (4, 9)
    known = {f"<h3>User {user_of(user)}</h3>" for user in range(USERS_IN_ALL)}
    assert {line.strip() for line in users(many)} <= known
    assert users(few) != users(others)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("system", "tiger"),
        ("dataset__name", "mine"),
        ("encoder", "paper"),
        ("scale", "paper"),
        ("modalities", ["sound"]),
    ],
)
def test_the_run_is_named(run, report, key, value):
    given = {"corpus__tasks": ["history sound -> sound"]} if key == "modalities" else {}
    usual, changed = report(run), report(run, **{key: value}, **given)
    word = value if isinstance(value, str) else value[0]
    for before, after in zip(usual, changed, strict=True):
        assert after.count(word) > before.count(word)


def test_a_metrics_file_that_lacks_a_name_is_told_and_nothing_is_written(run, report, tmp_path):
    run.filter.write_text("{}")
    with pytest.raises(TableError, match="filter: expected users, found no users"):
        report(run)
    assert not (tmp_path / "report").exists()
    assert not (tmp_path / "metrics").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "expected a file"),
        (b"no table", "cannot be read: parquet"),
        (pl.DataFrame({"key": ["A"]}), r"expected columns \{key: String, .*picture: Binary.*\}, found \{key: String\}"),
    ],
)
def test_pictures_that_are_no_table_are_told(run, report, content, told):
    run.images.unlink()
    if isinstance(content, bytes):
        run.images.write_bytes(content)
    elif content is not None:
        content.write_parquet(run.images)
    with pytest.raises(TableError, match=rf"images\.parquet: {told}"):
        report(run)
