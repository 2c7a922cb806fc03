"""Scores in full against their slow twin, and the rankings that they make against those of the beams."""

import numpy as np
import polars as pl
import pytest
import torch
from accelerate import Accelerator

from tessera.recommender.beam import beam_search
from tessera.recommender.lists import IMPOSSIBLE, NOTHING
from tessera.recommender.ranking import Decoding, rank_users
from tessera.recommender.rescoring import candidates_of, score_items
from tessera.recommender.trie import build_trie
from tests.recommender.conftest import FILLING, TASKS
from tests.recommender.teacher_forcing import NUMERIC, scores_of_all_items, sources

USERS = 12


@pytest.mark.parametrize("renormalise", [False, True])
def test_it_equals_scoring_every_item_by_teacher_forcing(world, model, renormalise, reader):
    here = world()
    network, source, tokens = model(here, sizes=FILLING).eval(), sources(here), here.tokens["text"]
    trie, generator = build_trie(tokens), torch.Generator().manual_seed(0)
    items = torch.stack([torch.randperm(len(tokens), generator=generator)[:7] for _ in source])
    found = score_items(reader(network), trie, source, items, renormalise=renormalise)
    expected = scores_of_all_items(network, source, tokens, trie, renormalise=renormalise)
    torch.testing.assert_close(found, expected.gather(1, items), atol=NUMERIC, rtol=0)


@pytest.mark.parametrize("renormalise", [False, True])
def test_items_get_the_scores_that_the_search_gave_them(world, model, renormalise, reader):
    here = world()
    reads, source = reader(model(here, sizes=FILLING).eval()), sources(here)
    trie = build_trie(here.tokens["image"])
    beams = beam_search(reads, trie, source, beams=6, renormalise=renormalise)
    found = score_items(reads, trie, source, beams.items, renormalise=renormalise)
    torch.testing.assert_close(found, beams.scores, atol=NUMERIC, rtol=0)


def test_items_that_share_an_id_share_their_score_and_no_item_has_none(world, model, reader):
    here = world()
    tokens = np.repeat(here.tokens["text"][:9], 3, axis=0)  # items 0, 1, 2 have one ID, and so on
    items = torch.tensor([[3, 4, 5, NOTHING, 26]]).expand(5, -1)
    reads = reader(model(here, sizes=FILLING).eval())
    found = score_items(reads, build_trie(tokens), sources(here), items, renormalise=False)
    assert torch.equal(found[:, :3], found[:, :1].expand(-1, 3))
    assert (found[:, 3] == IMPOSSIBLE).all()
    assert found[:, [0, 4]].isfinite().all()


def test_candidates_are_what_any_list_holds_once():
    lists = [torch.tensor([[4, 2], [1, NOTHING]]), torch.tensor([[2, 9], [0, 3]])]
    assert candidates_of(lists).tolist() == [[NOTHING, 2, 4, 9], [NOTHING, 0, 1, 3]]


def rankings(here, network, *, rescoring, beams=3, batch_size=5, renormalise=True, interactions=None):
    """Every user's items by ranking, best first, and all scores as (ranking, user, item) -> score."""
    decoding = Decoding(beams, batch_size, renormalise, rescoring)
    found = rank_users(
        network,
        here.test,
        here.tokens,
        here.vocabulary,
        decoding,
        split="test",
        interactions=interactions,
        accelerator=Accelerator(cpu=True),
        progress=lambda batches, title: batches,
    )
    table = pl.concat(ranked.table for ranked in found)
    assert table.select("modality", "user", "rank").is_unique().all()
    order = table.sort("modality", "user", "rank")
    lists = {key: rows["item"].to_list() for key, rows in order.group_by(["modality", "user"], maintain_order=True)}
    scores = {row[:3]: row[3] for row in table.select("modality", "user", "item", "score").iter_rows()}
    return lists, scores


@pytest.fixture
def trained(world, model):
    here = world(users=USERS)
    return here, model(here, sizes=FILLING, seed=3).eval()


def test_each_task_that_recommends_scores_what_any_of_them_found(trained):
    before, scores_before = rankings(*trained, rescoring="none")
    after, scores = rankings(*trained, rescoring="recommendation")
    assert {ranking for ranking, _ in after} == {"text", "image"}
    for user in range(USERS):
        union = {*before["text", user], *before["image", user]}
        assert set(after["text", user]) == set(after["image", user]) == union
        for ranking in ("text", "image"):
            by_score = sorted(union, key=lambda item: (-scores[ranking, user, item], item))
            assert after[ranking, user] == by_score
    assert any(before["text", user] != before["image", user] for user in range(USERS))
    assert all(scores[key] == pytest.approx(score, abs=NUMERIC) for key, score in scores_before.items())


def test_with_history_the_tasks_across_modalities_score_too(trained):
    here, network = trained
    own, scores_of_own = rankings(here, network, rescoring="recommendation", renormalise=False)
    found, scores = rankings(here, network, rescoring="history", renormalise=False)
    assert {ranking for ranking, _ in found} == {"text", "image", "text_to_image", "image_to_text"}
    assert {key: items for key, items in found.items() if key in own} == own
    assert {key: score for key, score in scores.items() if key in scores_of_own} == scores_of_own
    for source, target in (("text", "image"), ("image", "text")):
        rows = here.test.filter(task=f"history {source} -> {target}")
        trie = build_trie(here.tokens[target])
        for user, read in rows.select("user", "source").iter_rows():
            expected = scores_of_all_items(network, torch.tensor([read]), here.tokens[target], trie, renormalise=False)[
                0
            ]
            ranking = f"{source}_to_{target}"
            assert set(found[ranking, user]) == set(own["text", user])
            for item in found[ranking, user]:
                assert scores[ranking, user, item] == pytest.approx(float(expected[item]), abs=NUMERIC)


def test_tasks_that_share_histories_score_all_of_them(world, model):
    tasks = [*TASKS[:2], "history text ~> image", "history image ~> text"]
    here = world(users=USERS, tasks=tasks)
    assert here.test.filter(task="history text ~> image").height < USERS
    found, _ = rankings(here, model(here).eval(), rescoring="history")
    assert sorted(found) == sorted(
        (ranking, user) for ranking in ("text", "image", "text_to_image", "image_to_text") for user in range(USERS)
    )


def test_a_task_that_reads_what_nothing_recommends_by_does_not_score(world, model):
    here = world(users=USERS, tasks=["history text -> text", "history text -> image", "history image -> text"])
    found, _ = rankings(here, model(here).eval(), rescoring="history")
    assert {ranking for ranking, _ in found} == {"text", "text_to_image"}


def test_users_scored_together_change_nothing(trained):
    one, scores_of_one = rankings(*trained, rescoring="history", batch_size=100)
    other, scores_of_other = rankings(*trained, rescoring="history", batch_size=1)
    assert one == other
    assert scores_of_one == pytest.approx(scores_of_other, abs=NUMERIC)


def test_what_was_seen_is_no_candidate(trained):
    here, network = trained
    found, _ = rankings(here, network, rescoring="history", beams=9, interactions=here.interactions)
    had = here.interactions.filter(pl.col("split") != "test").group_by("user").agg("item")
    for user, items in had.iter_rows():
        assert not set(items) & set(found["text_to_image", user])


def test_lists_that_the_trie_cannot_fill_are_as_long_as_what_was_found(trained):
    here, network = trained
    found, _ = rankings(here, network, rescoring="history", beams=40)
    assert all(sorted(items) == list(range(27)) for items in found.values())
