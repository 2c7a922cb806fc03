import pytest

from tessera.errors import TableError
from tessera.report.content import (
    compared_of,
    data_of,
    lacking_of,
    mismatches_of,
    promised,
    rankings_of,
    sample_of,
    slices_of,
)
from tests.finished_run import FILTERED

MEASURES = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr")


def measures(value):
    return dict.fromkeys(MEASURES, value)


def evaluated(**values):
    rankings = {name: measures(value) for name, value in values.items()}
    return {**rankings, "valid": {name: measures(value / 2) for name, value in values.items()}}


def drawn(**values):
    bounds = {name: {measure: [value - 0.1, value + 0.1] for measure in MEASURES} for name, value in values.items()}
    return {"confidence": 0.9, "resamples": 200, "users": {"test": 70, "valid": 60}, "intervals": bounds}


BOTH = {"text": 0.3, "image": 0.2, "ensemble": 0.4, "popularity": 0.1, "final": 0.4}


def test_rankings_by_hand():
    rankings = {ranking.name: ranking for ranking in rankings_of(evaluated(**BOTH), drawn(**BOTH))}
    assert list(rankings) == ["text", "image", "ensemble", "popularity"]
    assert [name for name, ranking in rankings.items() if ranking.is_final] == ["ensemble"]
    assert rankings["text"].times_floor == pytest.approx(3)
    assert rankings["text"].valid == measures(0.15)
    bar = rankings["text"].bars["ndcg@10"]
    assert (bar.value, bar.low, bar.high) == pytest.approx((0.3, 0.2, 0.4))


def test_an_ensemble_is_final_though_a_modality_is_as_good():
    values = BOTH | {"text": 0.4}
    rankings = rankings_of(evaluated(**values), drawn(**values))
    assert [ranking.name for ranking in rankings if ranking.is_final] == ["ensemble"]


def test_the_only_modality_is_final():
    values = {"text": 0.3, "popularity": 0.1, "final": 0.3}
    assert [ranking.is_final for ranking in rankings_of(evaluated(**values), drawn(**values))] == [True, False]


def test_nothing_found_is_no_times_popularity():
    values = {"text": 0.0, "popularity": 0.0, "final": 0.0}
    none = drawn(**values)
    none["intervals"] = {name: {measure: [0.0, 0.0] for measure in MEASURES} for name in values}
    text = rankings_of(evaluated(**values), none)[0]
    assert text.times_floor is None


@pytest.mark.parametrize("missing", ["final", "popularity", "valid"])
def test_a_missing_name_is_told(missing):
    document = {name: values for name, values in evaluated(**BOTH).items() if name != missing}
    with pytest.raises(TableError, match=f"evaluate: expected .*, found no {missing}"):
        rankings_of(document, drawn(**BOTH))


@pytest.mark.parametrize(
    ("values", "compared"),
    [
        (BOTH, (["text", "image"], ["text", "image", "ensemble"])),
        ({"text": 0.3, "popularity": 0.1, "final": 0.3}, (["text"], ["text"])),
        ({"popularity": 0.1, "final": 0.1}, ([], ["popularity"])),
    ],
)
def test_what_is_compared_and_what_a_user_is_shown(values, compared):
    assert compared_of(rankings_of(evaluated(**values), drawn(**values))) == compared


def test_sample():
    assert sample_of(drawn(**BOTH)) == (70, 0.9, 200)


def test_promised():
    assert promised({"a": {"b": 1}}, "a", "b", file="f") == 1
    with pytest.raises(TableError, match=r"f: expected a\.b\.c, found no c"):
        promised({"a": {"b": 1}}, "a", "b", "c", file="f")


def record(kind, name, ranking, value, *, users=200, split="test"):
    return {
        "split": split,
        "ranking": ranking,
        "kind": kind,
        "slice": name,
        "users": users,
        "hr@10": value,
        "ndcg@10": 0,
    }


def test_slices_by_hand():
    records = [
        record("target_frequency", "0", "text", 0.9, split="valid"),
        record("target_frequency", "0", "text", 0.1, users=99),
        record("target_frequency", "1+", "text", 0.2, users=100),
        record("target_frequency", "0", "popularity", 0.0, users=99),
        record("target_frequency", "1+", "popularity", 0.4, users=100),
        record("history_length", "0-3", "text", 0.0),
    ]
    frequency, history = slices_of(records)
    assert [(part.name, part.users, part.is_small) for part in frequency.parts] == [("0", 99, True), ("1+", 100, False)]
    assert frequency.parts[1].values == {"text": 0.2, "popularity": 0.4}
    assert history.parts[0].values == {"text": 0.0}


def test_data():
    assert data_of(FILTERED)._asdict() == {name: FILTERED[name] for name in data_of(FILTERED)._fields}
    assert lacking_of(FILTERED) == {"image": 3}
    assert mismatches_of(FILTERED) == {"items": (41, 40)}


def test_a_filter_that_tells_no_more_than_it_must():
    bare = {name: FILTERED[name] for name in data_of(FILTERED)._fields}
    assert (lacking_of(bare), mismatches_of(bare)) == ({}, {})
    del bare["tie_rate"]
    with pytest.raises(TableError, match="filter: expected tie_rate"):
        data_of(bare)
