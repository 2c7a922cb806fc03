import re
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from tessera.items.demo_pictures import COLOURS, DRAWN, PATTERNS
from tessera.items.demo_words import (
    CATEGORIES,
    PURSUITS,
    ROOMS,
    Wording,
    word_product,
    word_review,
    word_reviewer,
)

LOOKS = {
    *COLOURS,
    *PATTERNS,
    *("colour", "coloured", "white", "black", "grey", "cream", "brown", "purple", "turquoise", "golden", "silver"),
    *("pattern", "patterned", "stripe", "stripes", "check", "checks", "chequered", "dot", "dots", "spots", "zigzags"),
}


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def everything_worded() -> Iterator[tuple[str, str, str, Wording]]:
    generator = np.random.default_rng(0)
    for category, pursuit, room in product(CATEGORIES, PURSUITS, ROOMS):
        for _ in range(12):
            yield (
                category,
                pursuit,
                room,
                word_product(category=category, pursuit=pursuit, room=room, generator=generator),
            )


@pytest.fixture(scope="module")
def worded() -> list[tuple[str, str, str, Wording]]:
    return list(everything_worded())


def test_words_and_pictures_know_the_same_categories():
    assert list(CATEGORIES) == list(DRAWN)


def test_no_word_names_a_look(worded):
    for *_, wording in worded:
        said = words_of(" ".join([wording.title, wording.maker, *wording.description, *wording.features]))
        assert not said & LOOKS


def test_a_text_names_its_pursuit_and_its_room_and_no_other(worded):
    for _, pursuit, room, wording in worded:
        text = " ".join(wording.description)
        for topics, own in ((PURSUITS, pursuit), (ROOMS, room)):
            named = {topic for topic, words in topics.items() if words.name in wording.title}
            assert named == {own}, wording.title
            told = {topic for topic, words in topics.items() if any(thing in text for thing in words.things)}
            assert told == {own}


def test_a_description_tells_each_thing_once(worded):
    for _, pursuit, room, wording in worded:
        text = " ".join(wording.description)
        assert all(text.count(thing) == 1 for thing in (*PURSUITS[pursuit].things, *ROOMS[room].things)), text


def test_a_thing_belongs_to_one_topic():
    things = [thing for topic in (*PURSUITS.values(), *ROOMS.values()) for thing in topic.things]
    assert len(things) == len(set(things))


def test_templates_are_filled(worded):
    assert not any("{" in wording.title + "".join(wording.description) for *_, wording in worded)


def test_products_alike_are_worded_differently():
    generator = np.random.default_rng(0)
    wordings = [word_product(category="mug", pursuit="tea", room="study", generator=generator) for _ in range(100)]
    assert len({wording.title for wording in wordings}) > 40
    assert len({"".join(wording.description) for wording in wordings}) > 95


def test_wording_follows_from_its_generator():
    first, again = (
        word_product(category="rug", pursuit="music", room="bedroom", generator=np.random.default_rng(3))
        for _ in range(2)
    )
    assert first == again


def test_reviews_praise_and_blame_as_they_rate():
    said = {
        rating: {word_review(rating=rating, generator=np.random.default_rng(seed))[0] for seed in range(40)}
        for rating in range(1, 6)
    }
    assert said[4] == said[5]
    assert said[1] == said[2]
    assert not said[1] & said[3]
    assert not said[3] & said[5]


def test_reviewers_have_a_name_and_an_initial():
    assert re.fullmatch(r"[A-Z][a-z]+ [A-Z]\.", word_reviewer(np.random.default_rng(0)))
