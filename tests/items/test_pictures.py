import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from tessera.items import pictures
from tessera.items.pictures import Limits, Picture, UnusableError, normalised

LIMITS = Limits(max_bytes=1_000_000, max_pixels=100_000, min_side=16, longest_side=64, quality=90)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def noise(width: int = 120, height: int = 80) -> Image.Image:
    return Image.effect_noise((width, height), 60).convert("RGB")


def colour(picture: Picture, at: tuple[int, int] = (5, 5)) -> tuple[int, ...]:
    with Image.open(io.BytesIO(picture.content)) as image:
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert image.size == (picture.width, picture.height)
        return tuple(image.getpixel(at))


def refusal(content: bytes, limits: Limits = LIMITS) -> tuple[str, str]:
    with pytest.raises(UnusableError) as caught:
        normalised(content, limits=limits)
    return caught.value.status, str(caught.value)


def near(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return all(abs(a - b) <= 3 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_form_becomes_a_small_jpeg(form: str):
    picture = normalised(encoded(Image.new("RGB", (120, 80), "red"), form), limits=LIMITS)
    assert (picture.width, picture.height) == (64, 43)
    assert near(colour(picture), (254, 0, 0))


@pytest.mark.parametrize(
    ("mode", "value", "form", "expected"),
    [
        ("1", 1, "PNG", (255, 255, 255)),
        ("L", 100, "PNG", (100, 100, 100)),
        ("I;16", 32768, "PNG", (128, 128, 128)),
        ("LA", (100, 0), "PNG", (255, 255, 255)),
        ("RGBA", (255, 0, 0, 0), "PNG", (255, 255, 255)),
        ("RGBA", (255, 0, 0, 128), "WEBP", (255, 127, 127)),
        ("CMYK", (0, 255, 255, 0), "JPEG", (254, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb_over_white(mode, value, form, expected):
    picture = normalised(encoded(Image.new(mode, (20, 20), value), form), limits=LIMITS)
    assert near(colour(picture), expected)


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_transparent_colours_of_a_palette_become_white(transparency: int | bytes):
    image = Image.new("P", (20, 20), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    picture = normalised(encoded(image, transparency=transparency), limits=LIMITS)
    assert near(colour(picture), (255, 255, 255))


def test_stands_upright():
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (20, 0, 40, 20))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned right by a quarter: the left half comes up
    picture = normalised(encoded(image, "JPEG", exif=turned.tobytes(), quality=95), limits=LIMITS)
    assert (picture.width, picture.height) == (20, 40)
    assert near(colour(picture, (10, 5)), (254, 0, 0))
    assert near(colour(picture, (10, 35)), (0, 0, 254))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_the_library_turns_it(orientation):
    image = noise().crop((0, 0, 40, 24))
    marked = Image.Exif()
    marked[ExifTags.Base.Orientation] = orientation
    content = encoded(image, exif=marked.tobytes())
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert normalised(content, limits=LIMITS) == normalised(encoded(expected), limits=LIMITS)


def test_tags_that_are_no_orientation_may_be_broken():
    width_as_text = struct.pack("<HHI4s", ExifTags.Base.ImageWidth, 2, 4, b"wid")
    orientation = struct.pack("<HHIHH", ExifTags.Base.Orientation, 3, 1, 6, 0)
    tags = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + width_as_text + orientation + b"\0" * 4
    image = Image.open(io.BytesIO(encoded(Image.new("RGB", (40, 20), "red"), "JPEG", exif=tags)))
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(image)
    picture = normalised(encoded(Image.new("RGB", (40, 20), "red"), "JPEG", exif=tags), limits=LIMITS)
    assert (picture.width, picture.height) == (20, 40)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("tags", [b"garbage", b"Exif\0\0garbage"])
def test_a_picture_outlives_tags_that_are_none(form: str, tags: bytes):
    picture = normalised(encoded(Image.new("RGB", (40, 20), "red"), form, exif=tags), limits=LIMITS)
    assert (picture.width, picture.height) == (40, 20)


def test_large_pictures_are_decoded_one_at_a_time_and_no_otherwise(monkeypatch: pytest.MonkeyPatch):
    content = encoded(noise())
    alone = normalised(content, limits=LIMITS)
    monkeypatch.setattr(pictures, "MANY_PIXELS", 1)
    decoding, most = 0, 0
    decode = pictures._upright_rgb

    def counted(image):
        nonlocal decoding, most
        decoding += 1
        most = max(most, decoding)
        time.sleep(0.01)
        try:
            return decode(image)
        finally:
            decoding -= 1

    monkeypatch.setattr(pictures, "_upright_rgb", counted)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: normalised(content, limits=LIMITS), range(8))) == [alone] * 8
    assert most == 1


def test_carries_nothing_but_the_picture():
    plain = noise()
    marked = encoded(plain, "JPEG", quality=95, comment=b"me", icc_profile=b"profile", dpi=(300, 300))
    assert normalised(marked, limits=LIMITS) == normalised(encoded(plain, "JPEG", quality=95), limits=LIMITS)


def test_same_bytes_each_time_and_after_itself_the_same_size():
    content = encoded(noise())
    once = normalised(content, limits=LIMITS)
    assert normalised(content, limits=LIMITS) == once
    assert normalised(once.content, limits=LIMITS)[1:] == once[1:]


@pytest.mark.parametrize(
    ("size", "becomes"), [((120, 80), (64, 43)), ((80, 120), (43, 64)), ((20, 30), (20, 30)), ((1600, 16), (64, 1))]
)
def test_the_longest_side_is_bounded_and_small_pictures_do_not_grow(size, becomes):
    assert normalised(encoded(Image.new("RGB", size)), limits=LIMITS)[1:] == becomes


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    image = Image.linear_gradient("L").resize((300, 300)).convert("RGB")
    limits = LIMITS._replace(longest_side=16)
    small = normalised(encoded(image, "JPEG", quality=95), limits=limits)
    whole = normalised(encoded(image, "PNG"), limits=limits)
    assert near(colour(small, (8, 8)), colour(whole, (8, 8)))


def test_each_limit_decides():
    content = encoded(noise())
    large = normalised(content, limits=LIMITS._replace(longest_side=100))
    assert large.width == 100
    assert len(normalised(content, limits=LIMITS._replace(quality=30)).content) < len(
        normalised(content, limits=LIMITS).content
    )
    assert refusal(content, LIMITS._replace(max_bytes=len(content) - 1))[0] == "too_large"
    assert normalised(content, limits=LIMITS._replace(max_bytes=len(content)))
    assert refusal(content, LIMITS._replace(max_pixels=120 * 80 - 1)) == (
        "too_many_pixels",
        "120 x 80 pixels, at most 9599 allowed",
    )
    assert normalised(content, limits=LIMITS._replace(max_pixels=120 * 80))
    assert refusal(content, LIMITS._replace(min_side=81)) == (
        "too_small",
        "120 x 80 pixels, at least 81 a side expected",
    )
    assert normalised(content, limits=LIMITS._replace(min_side=80))


def png(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [400, 10_000, 60_000])
def test_a_bomb_is_refused_before_it_is_decoded(side: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    assert refusal(png(side, side))[0] == "too_many_pixels"


JPEG = encoded(noise(), "JPEG")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>no such picture</html>", id="web page"),
        pytest.param(JPEG[: len(JPEG) // 2], id="half a JPEG"),
        pytest.param(JPEG[:-20], id="JPEG without its end"),
        pytest.param(JPEG[:300], id="head of a JPEG"),
        pytest.param(png(100, 100), id="PNG with too few pixels"),
        pytest.param(encoded(noise(), "TIFF"), id="a form that is not trusted"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", id="PostScript"),
    ],
)
def test_what_is_no_whole_picture(content: bytes):
    assert refusal(content)[0] == "undecodable"


def test_a_placeholder_of_one_pixel():
    assert refusal(encoded(Image.new("RGB", (1, 1)), "GIF"))[0] == "too_small"


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]), st.integers(0, 2**16), st.binary(min_size=1, max_size=40)
)
def test_garbled_bytes_are_a_picture_or_a_refusal(form: str, place: int, garbage: bytes):
    content = bytearray(encoded(noise(40, 40), form))
    place %= len(content)
    content[place : place + len(garbage)] = garbage
    try:
        status = "ok" if normalised(bytes(content), limits=LIMITS).width <= LIMITS.longest_side else "too wide"
    except UnusableError as error:
        status = error.status
    assert status in {"ok", "undecodable", "too_many_pixels", "too_small"}
