import io

import numpy as np
import pytest
from PIL import Image

from tessera.items.demo_pictures import COLOURS, DRAWN, PATTERNS, SIDE, draw_picture


def drawn(category: str, colour: str, pattern: str, *, seed: int = 0) -> bytes:
    return draw_picture(category=category, colour=colour, pattern=pattern, generator=np.random.default_rng(seed))


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


@pytest.mark.parametrize("category", DRAWN)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_picture_is_a_small_png(category, pattern):
    picture = drawn(category, "teal", pattern)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 4000
    assert pixels(picture).shape == (SIDE, SIDE, 3)


def test_a_picture_follows_from_its_attributes_and_its_generator():
    picture = drawn("lamp", "red", "dotted")
    assert picture == drawn("lamp", "red", "dotted")
    assert picture != drawn("lamp", "red", "dotted", seed=1)


@pytest.mark.parametrize("category", DRAWN)
def test_each_attribute_shows(category):
    colours = {drawn(category, colour, "dotted") for colour in COLOURS}
    patterns = {drawn(category, "sky", pattern) for pattern in PATTERNS}
    assert (len(colours), len(patterns)) == (len(COLOURS), len(PATTERNS))
    assert all(drawn(category, "sky", "plain") != drawn(other, "sky", "plain") for other in set(DRAWN) - {category})


@pytest.mark.parametrize("category", DRAWN)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_plain_product_has_its_colour(category, colour):
    wheel = np.array(list(COLOURS.values()))
    found = pixels(drawn(category, colour, "plain")).reshape(-1, 1, 3).astype(int)
    distance = np.abs(found - wheel).max(axis=2)
    close = np.bincount(distance.argmin(axis=1)[distance.min(axis=1) < 30], minlength=len(wheel))
    assert list(COLOURS)[close.argmax()] == colour
    assert close.max() > SIDE**2 / 10


def test_patterns_lie_as_they_are_called():
    for pattern, across, down in (("plain", False, False), ("striped", False, True), ("dotted", True, True)):
        poster = pixels(drawn("poster", "blue", pattern)).astype(int)[30:66, 36:60]
        steps_down, steps_across = (np.abs(np.diff(poster, axis=axis)).max() for axis in (0, 1))
        assert (steps_across > 30, steps_down > 30) == (across, down), pattern
