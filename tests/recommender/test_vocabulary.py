import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import DataError, ParamsError, TableError
from tessera.recommender.vocabulary import Vocabulary
from tessera.tasks import Task, parse_tasks

TASKS = ["history text -> text", "history text -> image", "history image -> image", "item image -> text"]


def vocabulary() -> Vocabulary:
    return Vocabulary(parse_tasks(TASKS, ["text", "image"]), {"text": (3, 2), "image": (4,)})


def test_the_map_by_hand():
    words = vocabulary()
    # 0 pad, 1 end, 2 and 3 the two tasks that cross, 4-6 and 7-8 text, 9-12 image
    assert words.size == 13
    assert words.prefix(Task("history", "text", "image")) == (2,)
    assert words.prefix(Task("item", "image", "text")) == (3,)
    assert words.prefix(Task("history", "text", "text")) == ()
    assert words.tokens("text", np.array([[0, 0], [2, 1]])).tolist() == [[4, 7], [6, 8]]
    assert words.tokens("image", np.array([[3]])).tolist() == [[12]]
    assert words.token_modalities.tolist() == [-1] * 4 + [0] * 5 + [1] * 4


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_two_codes_share_a_token_and_none_is_left_over(sizes):
    codebooks = {f"m{number}": tuple(levels) for number, levels in enumerate(sizes)}
    words = Vocabulary(parse_tasks(["history m0 -> m0"], ["m0"]), codebooks)
    tokens = [
        words.offsets[modality][level] + code
        for modality, levels in codebooks.items()
        for level, size in enumerate(levels)
        for code in range(size)
    ]
    assert tokens == list(range(2, words.size))


@pytest.mark.parametrize(("layout", "expected"), [("concatenated", [[4, 7, 8, 10]]), ("marked", [[5, 8, 3, 9, 11]])])
def test_a_joint_id_by_hand(layout, expected):
    """One task has a token, 2; the mark is 3. Text has the codes 3-5 and 6-7, image 8 and 9-10, or each one more."""
    tasks = parse_tasks(["history joint -> joint", "item text -> image"], ["text", "image"], layout=layout)
    words = Vocabulary(tasks, {"text": (3, 2), "image": (1, 2)}, layout)
    found = words.all_tokens({"image": np.array([[0, 1]]), "text": np.array([[1, 1]])})
    assert list(found) == ["text", "image", "joint"]
    assert found["joint"].tolist() == expected
    assert words.mark == (3 if layout == "marked" else None)
    assert words.size == expected[0][-1] + 1


@pytest.mark.parametrize("layout", ["separate", "fused"])
def test_ids_that_are_not_joined_stay_those_of_their_modalities(layout):
    words = Vocabulary(parse_tasks(TASKS, ["text", "image"]), {"text": (3, 2), "image": (4,)}, layout)
    assert list(words.all_tokens({"text": np.array([[0, 0]]), "image": np.array([[3]])})) == ["text", "image"]


def test_a_joint_id_has_a_mark_exactly_at_each_change_of_modality():
    sizes = {"text": (3, 2), "image": (4,), "sound": (2, 2, 2)}
    words = Vocabulary(parse_tasks(["history joint -> joint"], list(sizes), layout="marked"), sizes, "marked")
    tokens = words.all_tokens({name: np.zeros((2, len(levels)), int) for name, levels in sizes.items()})["joint"]
    assert (tokens == words.mark).tolist() == [[False, False, True, False, True, False, False, False]] * 2


def test_a_task_that_reads_all_modalities_ranks_in_the_one_it_tells():
    joint, whole = Task.parse("history joint -> text"), Task.parse("item joint -> text")
    assert joint.is_recommendation
    assert not whole.is_recommendation
    words = Vocabulary((joint, whole), {"text": (3,), "image": (3,)}, "concatenated")
    assert words.prefix(joint) == ()
    assert words.prefix(whole) == (2,)


def test_tasks_that_share_histories_do_not_rank_and_have_prefixes_of_their_own():
    tasks = parse_tasks([*TASKS, "history text ~> image", "history image ~> text"], ["text", "image"])
    shared = [task for task in tasks if task.is_shared]
    assert [str(task) for task in shared] == ["history text ~> image", "history image ~> text"]
    assert not any(task.is_recommendation for task in shared)
    words = Vocabulary(tasks, {"text": (3, 2), "image": (4,)})
    assert len({words.prefix(task) for task in tasks if not task.is_recommendation}) == len(tasks) - sum(
        task.is_recommendation for task in tasks
    )
    assert Vocabulary.from_json(words.to_json()) == words


def test_json_round_trip():
    words = vocabulary()
    again = Vocabulary.from_json(words.to_json())
    assert again == words
    assert again != Vocabulary(words.tasks, words.codebook_sizes, "marked")
    assert again.fingerprint == words.fingerprint


def test_fingerprint_tells_vocabularies_of_one_size_apart():
    tasks = parse_tasks(["history text -> text"], ["text"])
    assert Vocabulary(tasks, {"text": (3, 2)}).fingerprint != Vocabulary(tasks, {"text": (2, 3)}).fingerprint


def test_from_json_refuses_another_document():
    for document in ({"tasks": ["history text -> text"]}, vocabulary().to_json() | {"layout": "heaped"}):
        with pytest.raises(TableError, match="expected tasks, codebook_sizes and layout"):
            Vocabulary.from_json(document)


@pytest.mark.parametrize("codes", [[[3, 0]], [[0, 2]], [[0, 0, 0]]])
def test_codes_outside_the_codebooks_are_refused(codes):
    with pytest.raises(DataError, match="IDs of text: expected codes below \\[3, 2\\]"):
        vocabulary().tokens("text", np.array(codes))


def test_codebooks_are_as_large_as_asked_or_as_used():
    words = Vocabulary.of((), {"text": np.array([[1, 7], [0, 2]])}, codebook_size=4)
    assert words.codebook_sizes == {"text": (4, 8)}


def test_more_tokens_than_two_bytes_hold_are_refused():
    with pytest.raises(DataError, match="expected at most 65536 tokens, found 65538"):
        Vocabulary((), {"text": (65_536,)})


@pytest.mark.parametrize(
    "text",
    [
        "history text",
        "item text -> text",
        "future text -> text",
        "history text image",
        "",
        "history a -> b -> c",
        "history text ~> text",
        "history joint ~> text",
        "item text ~> image",
    ],
)
def test_what_is_no_task_is_refused(text):
    with pytest.raises(ParamsError, match=r"corpus\.tasks: expected 'history MODALITY -> MODALITY'"):
        Task.parse(text)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["history text -> text", "history text -> text"], "expected distinct tasks"),
        (["history text -> sound"], "found \\['sound'\\]"),
        (["history joint -> joint"], "found \\['joint'\\]"),
        (["history text -> image"], "at least one 'history MODALITY -> same MODALITY'"),
        (["item text -> image"], "at least one 'history MODALITY -> same MODALITY'"),
    ],
)
def test_lists_of_tasks_that_cannot_work_are_refused(tasks, message):
    with pytest.raises(ParamsError, match=message):
        parse_tasks(tasks, ["text", "image"])


def test_two_tasks_that_rank_by_the_same_ids_are_refused():
    with pytest.raises(ParamsError, match="one recommendation task at most for each target"):
        parse_tasks(["history joint -> text", "history text -> text"], ["text", "image"], layout="concatenated")
