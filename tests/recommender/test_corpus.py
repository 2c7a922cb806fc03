import gzip
from itertools import groupby

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import DataError
from tessera.recommender import corpus
from tessera.recommender.corpus import codes_by_modality, histories, samples
from tessera.recommender.vocabulary import END, Vocabulary
from tessera.tasks import parse_tasks

CODES = {
    "text": np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]], np.uint16),
    "image": np.array([[4], [3], [2], [1], [0]], np.uint16),
}
TASKS = ["history text -> text", "history text -> image", "item image -> text"]


def interactions(*sequences: list[int]) -> pl.DataFrame:
    rows = [
        (user, item, position, {0: "test", 1: "valid"}.get(len(sequence) - 1 - position, "train"))
        for user, sequence in enumerate(sequences)
        for position, item in enumerate(sequence)
    ]
    schema = {"user": pl.UInt32, "item": pl.UInt32, "position": pl.UInt32, "split": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def vocabulary(tasks: list[str] = TASKS) -> Vocabulary:
    return Vocabulary.of(parse_tasks(tasks, list(CODES)), CODES, codebook_size=1)


def made(
    split: str, *sequences: list[int], max_history: int = 20, tasks: list[str] = TASKS, taught: np.ndarray | None = None
) -> dict[str, list]:
    words = vocabulary(tasks)
    tables = samples(interactions(*sequences), CODES, words, split=split, max_history=max_history, taught=taught)
    found: dict[str, list] = {}
    for task, table in tables:
        found.setdefault(str(task), []).extend(table.select("user", "item", "source", "target").rows())
    return found


def test_training_samples_by_hand():
    # Tokens: tasks 2, 3; text 4-6 and 7-8; image 9-13. The user's validation item is 3, the test item 4.
    found = made("train", [0, 1, 2, 3, 4])
    assert found["history text -> text"] == [
        (0, 1, [4, 7, END], [4, 8, END]),
        (0, 2, [4, 7, 4, 8, END], [5, 7, END]),
    ]
    assert found["history text -> image"] == [
        (0, 1, [2, 4, 7, END], [12, END]),
        (0, 2, [2, 4, 7, 4, 8, END], [11, END]),
    ]
    assert found["item image -> text"] == [
        (None, 0, [3, 13, END], [4, 7, END]),
        (None, 1, [3, 12, END], [4, 8, END]),
        (None, 2, [3, 11, END], [5, 7, END]),
        (None, 3, [3, 10, END], [5, 8, END]),
        (None, 4, [3, 9, END], [6, 7, END]),
    ]


def test_each_further_target_is_a_sample_of_each_history_task():
    taught = np.array([[4, 0], [-1, 4]])  # of the histories 0 and 0, 1
    found = made("train", [0, 1, 2, 3, 4], taught=taught)
    assert found["history text -> text"] == [
        (0, 1, [4, 7, END], [4, 8, END]),
        (0, 4, [4, 7, END], [6, 7, END]),
        (0, 0, [4, 7, END], [4, 7, END]),
        (0, 2, [4, 7, 4, 8, END], [5, 7, END]),
        (0, 4, [4, 7, 4, 8, END], [6, 7, END]),
    ]
    assert [row[:2] for row in found["history text -> image"]] == [(0, 1), (0, 4), (0, 0), (0, 2), (0, 4)]
    assert len(found["item image -> text"]) == len(CODES["text"])


def test_what_a_teacher_named_is_told_from_what_the_user_took():
    tables = samples(
        interactions([0, 1, 2, 3, 4], [2, 1, 3, 0]),
        CODES,
        vocabulary(),
        split="train",
        max_history=20,
        taught=np.array([[4, 0], [-1, 4], [-1, -1]]),
    )
    told = {str(task): table["taught"].to_list() for task, table in tables}
    assert told["history text -> text"] == told["history text -> image"] == [False, True, True, False, True, False]
    assert told["item image -> text"] == [False] * 5


def test_tasks_that_share_histories_share_further_targets():
    sequences = [list(np.random.default_rng(seed).integers(0, 5, 8)) for seed in range(30)]
    tasks = ["history text ~> image", "history image ~> text", "history text -> text"]
    count = sum(len(sequence) - 3 for sequence in sequences)
    taught = np.random.default_rng(0).integers(0, 5, (count, 2))
    taught[::7, 1] = -1
    told = made("train", *sequences, tasks=tasks, taught=taught)
    plain = made("train", *sequences, tasks=tasks)
    shared = tasks[:2]
    known = taught >= 0
    drawn = []
    for task in shared:
        # The histories of a user are told apart by how long they are.
        groups = [list(group) for _, group in groupby(told[task], key=lambda row: (row[0], len(row[2])))]
        assert [group[0] for group in groups] == plain[task]
        assert all(row[2] == group[0][2] for group in groups for row in group)
        drawn += [row[1] for group in groups for row in group[1:]]
    assert sum(len(told[task]) for task in shared) == count + known.sum()
    assert sorted(drawn) == sorted(taught[known].tolist())


def test_further_targets_of_other_histories_are_refused():
    with pytest.raises(ValueError, match="taught: expected a row for each of 2 histories, found 3"):
        made("train", [0, 1, 2, 3, 4], taught=np.zeros((3, 1), np.int32))


@pytest.mark.parametrize("block", [1, 2, 3, 7])
@pytest.mark.parametrize("taught", [None, np.array([[4, 0], [-1, 4], [1, -1], [2, 3], [-1, -1]])])
def test_tables_of_few_samples_hold_those_of_large_ones(monkeypatch, block, taught):
    sequences = [0, 1, 2, 3, 4], [4, 2, 0, 1], [3, 3, 1, 2, 0]
    tasks = [*TASKS, "history text ~> image", "history image ~> text"]
    whole = made("train", *sequences, tasks=tasks, taught=taught)
    monkeypatch.setattr(corpus, "BLOCK", block)
    assert made("train", *sequences, tasks=tasks, taught=taught) == whole
    assert len(whole["history text -> text"]) == (5 if taught is None else 11)


def test_validation_and_test_samples_by_hand():
    assert made("valid", [0, 1, 2, 3, 4])["history text -> text"] == [(0, 3, [4, 7, 4, 8, 5, 7, END], [5, 8, END])]
    assert made("test", [0, 1, 2, 3, 4])["history text -> text"] == [(0, 4, [4, 7, 4, 8, 5, 7, 5, 8, END], [6, 7, END])]


def test_item_tasks_belong_to_training_alone():
    assert set(made("test", [0, 1, 2])) == {"history text -> text", "history text -> image"}


def test_a_history_keeps_its_last_items():
    assert made("test", [0, 1, 2, 3, 4], max_history=1)["history text -> text"] == [(0, 4, [5, 8, END], [6, 7, END])]


def sequences_of(data: pl.DataFrame) -> dict[int, list[int]]:
    return {user: rows.sort("position")["item"].to_list() for (user,), rows in data.group_by("user")}


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=9), min_size=1, max_size=6), st.integers(1, 5))
def test_histories_are_those_that_a_plain_loop_finds(sequences, max_history):
    table = interactions(*sequences).sample(fraction=1.0, shuffle=True, seed=1)  # the order of rows means nothing
    for split, offset in (("valid", 2), ("test", 1)):
        found = histories(table, split=split, max_history=max_history)
        for user, target, length in zip(found.users, found.targets, found.lengths, strict=True):
            sequence = sequences[user]
            place = len(sequence) - offset
            assert found.items[target] == sequence[place]
            assert found.items[target - length : target].tolist() == sequence[max(0, place - max_history) : place]
        assert found.users.tolist() == list(range(len(sequences)))


@given(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=9, unique=False), min_size=1, max_size=5))
def test_no_training_sequence_holds_a_validation_or_test_item(sequences):
    found = histories(interactions(*sequences), split="train", max_history=20)
    for user, target, length in zip(found.users, found.targets, found.lengths, strict=True):
        in_training = sequences[user][:-2]
        assert found.items[target - length : target + 1].tolist() == in_training[: length + 1]


def test_max_history_changes_the_samples_and_tasks_change_the_vocabulary():
    assert made("test", [0, 1, 2, 3], max_history=1) != made("test", [0, 1, 2, 3], max_history=2)
    assert vocabulary(TASKS[:1]).size < vocabulary().size


def test_no_sample_is_an_error():
    with pytest.raises(DataError, match="valid samples: expected at least one target with a history"):
        made("valid", [0, 1])


def test_tasks_that_share_histories_have_each_of_them_once():
    both = ["history image ~> text", "history text ~> image"]
    sequences = [np.random.default_rng(0).integers(0, 5, 30).tolist() for _ in range(20)]
    found = made("train", *sequences, tasks=["history text -> text", *both])
    assert list(found) == ["history text -> text", *both]
    shared = [row[:2] for task in both for row in found[task]]
    assert sorted(shared) == sorted(row[:2] for row in found["history text -> text"])
    assert 0.4 < len(found[both[0]]) / len(shared) < 0.6
    whole = made("train", *sequences, tasks=["history text -> text", *(each.replace("~", "-") for each in both)])
    for task in both:
        assert all(row in whole[task.replace("~", "-")] for row in found[task])


def test_without_tasks_no_sample_is_missed():
    """Users of three interactions have one for training, which a system without a T5 does not mind."""
    table = interactions([0, 1, 2])
    assert list(samples(table, {}, Vocabulary((), {}), split="train", max_history=9)) == []


def test_codes_by_modality_needs_every_item_and_equal_lengths():
    ids = pl.DataFrame({"item": [1, 0], "modality": "text", "codes": [[3, 4], [1, 2]]})
    assert codes_by_modality(ids, ["text"])["text"].tolist() == [[1, 2], [3, 4]]
    for broken in (ids.filter(pl.col("item") == 1), ids.with_columns(codes=pl.Series([[1], [1, 2]])), ids.clear()):
        with pytest.raises(DataError, match="IDs of text: expected one of equal length"):
            codes_by_modality(broken, ["text"])


def test_known_counts_of_instruments(shared_data):
    file = shared_data("instruments") / "Musical_Instruments.json.gz"
    reviews = pl.read_ndjson(gzip.decompress(file.read_bytes()))
    left = pl.len().over("reviewerID") - 1 - pl.int_range(pl.len()).over("reviewerID")
    table = reviews.sort("reviewerID", "unixReviewTime").select(
        user=pl.col("reviewerID").rank("dense").cast(pl.UInt32) - 1,
        item=pl.col("asin").rank("dense").cast(pl.UInt32) - 1,
        position=pl.int_range(pl.len()).over("reviewerID").cast(pl.UInt32),
        split=pl.when(left == 0).then(pl.lit("test")).when(left == 1).then(pl.lit("valid")).otherwise(pl.lit("train")),
    )
    counts = {split: len(histories(table, split=split, max_history=20).targets) for split in ("train", "valid", "test")}
    assert counts == {"train": 84_890, "valid": 17_112, "test": 17_112}
