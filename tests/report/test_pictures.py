import base64
import io

import pytest
from PIL import Image

from tessera.errors import DataError
from tessera.report.pictures import LONGEST_SIDE, pictures_of, wanted_first
from tests.finished_run import encoded


def data_urls(pictures):
    found = pictures_of(pictures, left_out=frozenset())
    return {key: found.urls[place] for key, place in found.places.items()}


def decoded(url):
    kind, content = url.split(",", 1)
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.parametrize(
    ("size", "expected"), [((400, 200), (LONGEST_SIDE, LONGEST_SIDE // 2)), ((30, 90), (30, 90)), ((1, 1), (1, 1))]
)
def test_a_picture_keeps_its_proportions_and_is_never_enlarged(size, expected):
    urls = data_urls({"a": encoded(Image.new("RGB", size, "red"))})
    with decoded(urls["a"]) as image:
        assert image.size == expected


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_every_mode_is_shown_in_colour(mode):
    with decoded(data_urls({"a": encoded(Image.new(mode, (8, 8)))})["a"]) as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize("content", [b"", b"no picture", encoded(Image.new("RGB", (64, 64), "red"))[:-40]])
def test_what_is_no_picture_is_named(content):
    with pytest.raises(DataError, match="picture of B7: cannot be decoded"):
        data_urls({"B6": encoded(Image.new("RGB", (8, 8))), "B7": content})


def test_a_huge_picture_is_refused():
    with pytest.raises(DataError, match="picture of B7: expected at most 4000000 pixels"):
        data_urls({"B7": encoded(Image.new("1", (4001, 1000)))})


def test_those_asked_for_first_are_shown_and_the_others_are_told_of():
    shown, left_out = wanted_first(["c", "a", "c", "x", "b", "d"], frozenset("abcd"), most=2)
    assert shown == ["c", "a"]
    assert left_out == {"b", "d"}


def test_every_picture_stands_in_the_page_once():
    red, blue = (encoded(Image.new("RGB", (8, 8), colour)) for colour in ("red", "blue"))
    found = pictures_of({"b": red, "a": blue}, left_out=frozenset("c"))
    assert (len(found.urls), found.places, found.left_out) == (2, {"a": 0, "b": 1}, {"c"})
