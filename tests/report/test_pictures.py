import base64
import io

import pytest
from PIL import Image

from tessera.errors import DataError
from tessera.report.pictures import LONGEST_SIDE, data_urls
from tests.finished_run import encoded


def decoded(url):
    kind, content = url.split(",", 1)
    assert kind == "data:image/jpeg;base64"
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
