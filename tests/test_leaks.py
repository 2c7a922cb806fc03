"""What training must not know reaches no training input: what is held out, later than the split, or of cold items.

All that is not training becomes one item that nobody else has, a marker, and whatever training reads must be as it was.
"""

import numpy as np
import polars as pl
import pytest

from tessera.items.filtering import in_order, numbered
from tessera.items.splits import leave_one_out, points_in_time, split_by_time, without_training
from tessera.recommender.corpus import histories, samples
from tessera.recommender.linear import SlistSettings, fit_slist
from tessera.recommender.popularity import items_by_popularity
from tessera.recommender.sequence_fitting import training_windows
from tessera.recommender.transitions import Weights, transition_matrix
from tessera.recommender.vocabulary import Vocabulary
from tessera.tasks import parse_tasks

ITEMS = 40
MARKER = ITEMS  # known to the catalogue alone
CODES = {"text": np.arange(ITEMS + 1, dtype=np.uint16)[:, np.newaxis]}
TASKS = parse_tasks(["history text -> text"], ["text"])
WEIGHTS = Weights(reach=10, decay=0.5, reverse=0.7, column_power=0.1, row_power=0.5, recency=0.5)
SLIST = SlistSettings(alpha=0.75, regularisation=1.0, decay=0.7, recency=0.9)


def shop():
    generator = np.random.default_rng(0)
    rows = [
        (f"u{user:02}", f"i{item:02}", int(time), 5.0, place)
        for user in range(60)
        for place, (item, time) in enumerate(
            zip(generator.permutation(ITEMS)[:12], generator.integers(500, size=12), strict=True)
        )
    ]
    schema = {"user_key": pl.String, "item_key": pl.String, "time": pl.Int64, "rating": pl.Float32, "row": pl.UInt64}
    return in_order(numbered(pl.DataFrame(rows, schema=schema, orient="row")), ties="hash")


def by_time():
    return split_by_time(shop(), points_in_time(shop(), valid_from=0.7, test_from=0.85))


COLD = pl.Series(range(0, ITEMS, 4), dtype=pl.UInt32)
SPLITS = {
    "leave_one_out": leave_one_out(shop()),
    "time": by_time(),
    "cold": without_training(leave_one_out(shop()), COLD),
    "time and cold": without_training(by_time(), COLD),
}


def t5_samples(table):
    vocabulary = Vocabulary.of(TASKS, CODES, codebook_size=ITEMS + 1)
    return [
        part.to_dict(as_series=False) for _, part in samples(table, CODES, vocabulary, split="train", max_history=9)
    ]


def transitions(table):
    return transition_matrix(table, items=ITEMS + 1, weights=WEIGHTS).toarray().tolist()


def strengths(table):
    return fit_slist(table, items=ITEMS + 1, settings=SLIST).toarray().tolist()


def sequences(table):
    rows = training_windows(table, max_history=5)
    return [part.tolist() for part in rows]


def popular(table):
    return dict(items_by_popularity(table).head(5).select("item", "score").iter_rows())


READERS = [t5_samples, transitions, strengths, sequences, popular]


def marked(table, rows):
    return table.with_columns(item=pl.when(rows).then(pl.lit(MARKER, pl.UInt32)).otherwise("item"))


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("read", READERS)
def test_what_is_not_training_reaches_no_training_input(name, read):
    table = SPLITS[name]
    assert read(marked(table, pl.col("split") != "train")) == read(table)
    assert read(marked(table, pl.col("split") == "train")) != read(table), "a marker in training would show"


@pytest.mark.parametrize("name", ["time", "time and cold"])
def test_a_history_ends_before_its_split_begins(name):
    table = SPLITS[name]
    begins = {split: table.filter(split=split)["time"].min() for split in ("valid", "test")}
    times = table.sort("user", "position")["time"].to_numpy()
    for split, begin in begins.items():
        found = histories(table, split=split, max_history=20)
        assert len(found.targets) == table.filter(split=split).height, "every target has a history"
        before = np.concatenate([times[t - n : t] for t, n in zip(found.targets, found.lengths, strict=True)])
        assert before.max() < begin <= times[found.targets].min()


@pytest.mark.parametrize("name", ["cold", "time and cold"])
def test_cold_items_stand_in_no_training_sample_but_are_targets_and_history_of_others(name):
    table = SPLITS[name]
    train = histories(table, split="train", max_history=20)
    assert not set(COLD) & {*train.items.tolist()}
    test = histories(table, split="test", max_history=20)
    assert set(COLD) & {*test.target_items.tolist()}
    assert set(COLD) & {*test.before.tolist()}
