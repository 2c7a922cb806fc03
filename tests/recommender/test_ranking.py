from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from accelerate import Accelerator

from tessera.recommender.batches import samples_of
from tessera.recommender.beam import beam_search
from tessera.recommender.ranking import Decoding, Share, rank, rank_users
from tessera.recommender.readers import reader_of
from tessera.recommender.trie import build_trie
from tests.recommender.conftest import FILLING


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_shares_of_all_processes_hold_every_row_once(processes):
    shares = [Share(process, processes).of(5) for process in range(processes)]
    assert torch.cat(shares).sort().values.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_rows_come_back_in_their_order_whatever_the_batches(world, model, batch_size):
    here = world(users=9)
    network, trie = model(here, sizes=FILLING).eval(), build_trie(here.tokens["text"])
    source = samples_of(here.test.filter(task="history text -> text")).source
    found = rank(reader_of(network), trie, source, beams=5, batch_size=batch_size, renormalise=False)
    for row in range(9):
        alone = beam_search(reader_of(network), trie, source.padded(torch.tensor([row])), beams=5, renormalise=False)
        assert torch.equal(found.items[row], alone.items[0])
        torch.testing.assert_close(found.scores[row], alone.scores[0], atol=1e-5, rtol=0)


def test_ranking_leaves_the_threads_of_others_as_they_were(world, model):
    """In torch a thread that sets its number of threads sets that of all that start later."""
    here = world(users=9)
    source = samples_of(here.test.filter(task="history text -> text")).source
    rank(
        reader_of(model(here).eval()), build_trie(here.tokens["text"]), source, beams=5, batch_size=2, renormalise=False
    )
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == torch.get_num_threads()


def test_rankings_at_one_time_leave_the_threads_as_they_were(world, model):
    """The second begins in a new thread while the first ranks, and ends after it."""
    here = world(users=9)
    source, trie = samples_of(here.test.filter(task="history text -> text")).source, build_trie(here.tokens["text"])
    network, before = model(here).eval(), torch.get_num_threads()
    has_begun, may_end = Event(), Event()

    def ranked(progress):
        return rank(reader_of(network), trie, source, beams=5, batch_size=2, renormalise=False, progress=progress)

    def of_second(batches):
        has_begun.set()
        yield from batches
        may_end.wait()

    def of_first(batches):
        yield batches[0]
        pending.append(server.submit(ranked, of_second))
        has_begun.wait()
        yield from batches[1:]

    pending = []
    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(1) as server:
            first = ranked(of_first)
            may_end.set()
            assert torch.equal(first.items, pending[0].result().items)
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
    finally:
        may_end.set()
        torch.set_num_threads(before)


def test_every_user_is_ranked_once_in_each_modality_and_in_no_cross_task(world, model):
    here = world(users=12)
    ranked = rank_users(
        model(here).eval(),
        here.test,
        here.tokens,
        here.vocabulary,
        Decoding(beams=3, batch_size=5, renormalise=True, rescoring="none"),
        split="test",
        interactions=None,
        accelerator=Accelerator(cpu=True),
        progress=lambda batches, title: batches,
    )
    counts = {found.ranking: found.table.group_by("user").len()["len"].to_list() for found in ranked}
    assert counts == {"text": [3] * 12, "image": [3] * 12}
