import polars as pl
import pytest

from stages.build_corpus import main
from tessera.artifacts import read_json, read_table, write_table
from tessera.errors import DataError, ParamsError
from tessera.schemas import CORPUS, IDS, INTERACTIONS

OUTPUTS = ("vocabulary", "train", "valid", "test", "metrics")


@pytest.fixture
def inputs(tmp_path):
    interactions = pl.DataFrame(
        {
            "user": [0] * 5,
            "item": [0, 1, 2, 3, 4],
            "time": [0] * 5,
            "position": range(5),
            "split": ["train"] * 3 + ["valid", "test"],
        },
        schema=INTERACTIONS,
    )
    ids = pl.DataFrame(
        [(item, modality, [item, 0], [item, 0], False) for modality in ("text", "image") for item in range(5)],
        schema=IDS,
        orient="row",
    )
    write_table(tmp_path / "interactions.parquet", interactions, INTERACTIONS)
    write_table(tmp_path / "ids.parquet", ids, IDS)
    return {name: tmp_path / f"{name}.parquet" for name in ("interactions", "ids")}


@pytest.fixture
def outputs(tmp_path):
    return {name: tmp_path / "out" / name for name in OUTPUTS}


def test_stage(inputs, outputs, params_file):
    main(**inputs, **outputs, params_file=params_file())
    assert read_json(outputs["metrics"])["train"]["history text -> image"] == 2
    assert read_json(outputs["metrics"])["train"]["item image -> text"] == 5
    assert read_table(outputs["test"], CORPUS)["item"].to_list() == [4] * 4
    assert read_json(outputs["vocabulary"])["size"] == read_json(outputs["metrics"])["vocabulary"]


def test_one_modality_alone(inputs, outputs, params_file):
    params = params_file({"modalities": ["text"], "corpus.tasks": ["history text -> text"]})
    main(**inputs, **outputs, params_file=params)
    assert read_json(outputs["metrics"])["train"] == {"history text -> text": 2}


@pytest.mark.parametrize("teacher", ["itemknn", "slist"])
def test_a_teacher_adds_samples_to_training_alone(inputs, outputs, params_file, teacher):
    rows = [
        (user, (user + place) % 5, 0, place, {3: "valid", 4: "test"}.get(place, "train"))
        for user in range(20)
        for place in range(5)
    ]
    write_table(inputs["interactions"], pl.DataFrame(rows, schema=INTERACTIONS, orient="row"), INTERACTIONS)
    main(**inputs, **outputs, params_file=params_file())
    alone = {name: read_table(outputs[name], CORPUS) for name in ("train", "valid", "test")}
    main(**inputs, **outputs, params_file=params_file({"corpus.teacher": teacher, "corpus.taught": 3}))
    assert read_table(outputs["valid"], CORPUS).equals(alone["valid"])
    assert read_table(outputs["test"], CORPUS).equals(alone["test"])
    task = pl.col("task") == "history text -> image"
    before, after = alone["train"].filter(task), read_table(outputs["train"], CORPUS).filter(task)
    assert before.height == 40
    assert after[::4].equals(before)
    # All go round the items one by one, so that the next one but two is what comes after the next one but one.
    last = {(row["user"], tuple(row["source"])): row["item"] for row in before.iter_rows(named=True)}
    taught = after.with_row_index().filter(pl.col("index") % 4 > 0)
    assert taught.height == read_json(outputs["metrics"])["teacher"]["targets"] == 120
    hits = [last[row["user"], tuple(row["source"])] == row["item"] for row in taught.iter_rows(named=True)]
    assert sum(hits) > 100
    items = pl.col("task").str.starts_with("item")
    assert read_table(outputs["train"], CORPUS).filter(items).equals(alone["train"].filter(items))


def test_the_same_inputs_give_the_same_files(inputs, outputs, params_file):
    main(**inputs, **outputs, params_file=params_file())
    first = {name: path.read_bytes() for name, path in outputs.items()}
    main(**inputs, **outputs, params_file=params_file())
    assert {name: path.read_bytes() for name, path in outputs.items()} == first


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"modalities": ["text"]}, ParamsError, "corpus.tasks: expected modalities among \\['text'\\]"),
        ({"modalities": ["text", "image", "sound"]}, DataError, "IDs of sound: expected one of equal length"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(inputs, outputs, params_file, changes, error, message):
    with pytest.raises(error, match=message):
        main(**inputs, **outputs, params_file=params_file(changes))
    assert not outputs["vocabulary"].parent.exists()


def test_a_split_without_samples_leaves_no_file(inputs, outputs, params_file):
    table = read_table(inputs["interactions"], INTERACTIONS).filter(pl.col("split") != "valid")
    write_table(inputs["interactions"], table, INTERACTIONS)
    with pytest.raises(DataError, match="valid samples: expected at least one target"):
        main(**inputs, **outputs, params_file=params_file())
    assert not list(outputs["train"].parent.glob("*"))
