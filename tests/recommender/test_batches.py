from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tessera.recommender.batches import (
    Rows,
    Samples,
    batches_by_length,
    cut_into_batches,
    gathered_samples,
    hide_modalities,
    rows_of,
    samples_of,
)
from tessera.row_files import Spool

LISTS = st.lists(st.lists(st.integers(2, 99), max_size=6), min_size=1, max_size=20)


def rows(lists: list[list[int]]):
    return rows_of(pl.Series(lists, dtype=pl.List(pl.UInt16)))


def test_padded_by_hand():
    assert rows([[], []]).padded(torch.tensor([1, 0, 0]), filler=-1).tolist() == [[-1], [-1], [-1]]
    assert rows([[5, 6], [7]]).padded(torch.tensor([1]), width=3).tolist() == [[7, 0, 0]]
    assert rows([[5, 6], [], [7]]).padded(torch.tensor([2, 0, 1])).tolist() == [[7, 0], [5, 6], [0, 0]]
    assert rows([[5, 6], [7]]).padded(torch.tensor([1, 0]), filler=-1).tolist() == [[7, -1], [5, 6]]


@given(LISTS, st.data())
def test_take_and_padded_agree_with_plain_lists(lists, data):
    chosen = data.draw(st.lists(st.integers(0, len(lists) - 1), min_size=1))
    taken = rows(lists).take(torch.tensor(chosen))
    assert taken.lengths.tolist() == [len(lists[row]) for row in chosen]
    padded = taken.padded(torch.arange(len(chosen)))
    assert [[token for token in row if token] for row in padded.tolist()] == [lists[row] for row in chosen]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=300), st.integers(1, 40), st.integers(1, 4))
def test_every_row_comes_once_and_no_batch_is_too_small(lengths, batch_size, smallest):
    generator = torch.Generator().manual_seed(0)
    batches = cut_into_batches(torch.tensor(lengths), batch_size=batch_size, smallest=smallest, generator=generator)
    assert torch.cat(batches).sort().values.tolist() == list(range(len(lengths)))
    assert len(batches) == 1 or min(map(len, batches)) >= min(smallest, batch_size)
    assert torch.cat(batches_by_length(torch.tensor(lengths), batch_size=batch_size)).sort().values.tolist() == list(
        range(len(lengths))
    )


def test_batches_hold_rows_of_about_one_length():
    lengths = torch.randint(1, 80, (20_000,), generator=torch.Generator().manual_seed(1))
    batches = cut_into_batches(lengths, batch_size=256, generator=torch.Generator().manual_seed(0))
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    assert padded < 1.05 * int(lengths.sum())


def test_no_rows_make_no_batches():
    assert batches_by_length(torch.empty(0, dtype=torch.long), batch_size=4) == []


def test_order_follows_from_the_generator():
    def cut(seed):
        generator = torch.Generator().manual_seed(seed)
        return [batch.tolist() for batch in cut_into_batches(torch.arange(50), batch_size=7, generator=generator)]

    assert cut(0) == cut(0) != cut(1)


def test_rows_on_a_gpu_are_padded_by_places_on_the_cpu():
    """With tensors that have a device and no content, for want of a GPU: whoever asks for content waits for it."""
    with FakeTensorMode():
        rows = Rows(torch.zeros(9, dtype=torch.int32, device="cuda"), torch.zeros(4, dtype=torch.int64, device="cuda"))
        with pytest.raises(DataDependentOutputException):
            rows.padded(torch.zeros(2, dtype=torch.int64))
        table = rows.padded(torch.zeros(2, dtype=torch.int64), width=3)
    assert (table.shape, table.device.type, table.dtype) == ((2, 3), "cuda", torch.int64)


def test_samples_know_which_ids_their_tasks_tell(world):
    here = world(users=5)
    samples = samples_of(here.train)
    assert samples.names == ("image", "text")
    batch = samples.batch(torch.arange(len(samples.items)))
    expected = [task.split()[-1] for task in here.train["task"]]
    assert [samples.names[place] for place in batch.told.tolist()] == expected
    assert batch.items.tolist() == here.train["item"].to_list()
    assert [row[:3] for row in batch.target.tolist()] == [target[:3] for target in here.train["target"].to_list()]


def test_samples_of_several_tables_are_those_of_one_wherever_they_lie(world, tmp_path):
    table = world(users=20).train
    tasks = table["task"].unique().sort()
    whole = samples_of(table)
    parts = [table[:7], table.clear(), table[7:30], table[30:]]
    assert len(tasks) > 1
    for found in (samples_of(*parts), gathered_samples(parts, partial(Spool, tmp_path / "new", np.int32))):
        assert found.names == whole.names
        assert torch.equal(found.items, whole.items)
        assert torch.equal(found.told, whole.told)
        assert torch.equal(found.firsts, whole.firsts)
        for rows, expected in ((found.source, whole.source), (found.target, whole.target)):
            assert torch.equal(rows.values, expected.values)
            assert torch.equal(rows.offsets, expected.offsets)
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_history_has_as_targets_has_one_source(world):
    here = world(users=20, taught=3)
    samples = here.samples()
    assert len(samples.source.lengths) == world(users=20).train.height < here.train.height
    sources = torch.randperm(len(samples.source.lengths), generator=torch.Generator().manual_seed(0))
    found = []
    for some in sources.split(7):
        batch = samples.batch(some)
        each = len(batch.target) // len(some)
        assert 1 <= each == int(samples.firsts.diff()[some].max()) <= 4
        own = batch.source.repeat_interleave(each, dim=0)
        is_one = batch.told >= 0
        assert torch.equal(is_one, batch.items >= 0)
        assert not batch.target[~is_one].any()
        assert samples.tokens(some) == int((batch.target > 0).sum())
        assert samples.distinct_items(some).tolist() == sorted(set(batch.items[::each].tolist()))
        found += [
            ([token for token in source.tolist() if token], [token for token in target.tolist() if token], int(item))
            for source, target, item in zip(own[is_one], batch.target[is_one], batch.items[is_one], strict=True)
        ]
    assert sorted(found) == sorted(here.train.select("source", "target", "item").rows())


def test_sources_are_those_of_own_targets_however_alike_and_wherever_tables_end():
    rows = [(5, False, [4]), (6, True, [4]), (7, False, [4]), (8, False, [9, 9]), (5, True, [9, 9]), (6, True, [9, 9])]
    schema = {"item": pl.UInt32, "taught": pl.Boolean, "source": pl.List(pl.UInt16)}
    table = pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        task=pl.lit("history text -> text"), target="source"
    )
    for tables in ([table], [table[:1], table[1:4], table[4:5], table[5:]]):
        samples = samples_of(*tables)
        assert samples.firsts.tolist() == [0, 2, 3, 6]
        assert samples.source.lengths.tolist() == [1, 1, 2]
        assert samples.distinct_items(torch.tensor([0, 2])).tolist() == [5, 8]
        assert samples.distinct_items(torch.tensor([0, 1, 0])).tolist() == [5, 7]


def test_a_batch_on_a_gpu_is_made_without_waiting_for_it():
    with FakeTensorMode():
        places = torch.zeros(4, dtype=torch.int64, device="cuda")
        lists = Rows(torch.zeros(9, dtype=torch.int32, device="cuda"), places)
        samples = Samples(lists, places, lists, places[:3], places[:3], ("text",))
        sources = torch.zeros(2, dtype=torch.int64, device="cuda")
        batch = samples.batch(sources, (5, 3, 4))
        with pytest.raises(DataDependentOutputException):
            samples.batch(sources)
    assert [tuple(table.shape) for table in batch] == [(2, 5), (6, 4), (6,), (6,)]
    assert {table.device.type for table in batch} == {"cuda"}


def test_no_samples_tell_nothing(world):
    samples = samples_of(world(users=5).train.clear())
    assert (samples.names, samples.told.tolist()) == ((), [])


#: Tokens 0, 1 and 2 are no codes, 3 and 4 are of modality 0, 5 and 6 of modality 1, 7 of modality 2.
MODALITIES = torch.tensor([-1, -1, -1, 0, 0, 1, 1, 2])
SOURCES = st.lists(st.lists(st.integers(0, 7), min_size=6, max_size=6), min_size=1, max_size=20)


def hidden(source, *, share, seed=0):
    return hide_modalities(source, MODALITIES, share=share, generator=torch.Generator().manual_seed(seed))


@given(SOURCES, st.floats(0, 1), st.integers(0, 9))
def test_modalities_are_hidden_whole_and_never_all_of_them(sources, share, seed):
    for before, after in zip(sources, hidden(torch.tensor(sources), share=share, seed=seed).tolist(), strict=True):
        owners = [int(MODALITIES[token]) for token in before]
        gone = {owner for owner, old, new in zip(owners, before, after, strict=True) if old != new}
        assert after == [0 if owner in gone else token for owner, token in zip(owners, before, strict=True)]
        assert -1 not in gone
        assert not gone or gone < set(owners) - {-1}


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("modalities", [2, 3])
def test_as_many_are_hidden_as_asked(share, modalities):
    """Of k modalities share - share^k / k: each that draws below share, but for one of k where all do."""
    source = torch.tensor([3, 4, 5, 6, 7, 1][: 2 * modalities]).expand(20_000, -1)
    after = hidden(source, share=share)
    for token in (3, 5, 7)[:modalities]:
        gone = (~(after == token).any(1)).float().mean()
        assert abs(gone - (share - share**modalities / modalities)) < 0.015


def test_a_share_of_nothing_draws_nothing():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    source = torch.tensor([[3, 5, 1]])
    assert hide_modalities(source, MODALITIES, share=0.0, generator=generator) is source
    assert torch.equal(generator.get_state(), before)
    hide_modalities(source, MODALITIES, share=0.1, generator=generator)
    assert not torch.equal(generator.get_state(), before)
