"""One picture, from whatever bytes claim to be one to a small JPEG: checked before it is decoded, then made alike."""

import contextlib
import io
import threading
from typing import Literal, NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

#: What may become of a picture that was wanted.
Status = Literal[
    "ok",
    "missing",  # the source names none
    "not_found",  # there is none where the source says
    "forbidden",  # the server or the file system refuses
    "http_error",  # another error of the server, again and again
    "timeout",  # the server does not answer, or stops answering
    "unreachable",  # no connection to the server, or it breaks, again and again
    "unsupported",  # an address that is no URL of http(s), no data: URL and no allowed path
    "too_large",  # more bytes than max_bytes
    "too_many_pixels",  # more pixels than max_pixels
    "too_small",  # a placeholder: the shorter side is below min_side
    "undecodable",  # no picture, or a broken one
]

#: What another run may get all the same.
PASSING: tuple[Status, ...] = ("timeout", "unreachable", "http_error")

#: Decoders that are trusted with bytes from anywhere.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

#: 16-bit greys become 8-bit greys by this.
GREYS_OF_16_BITS = 1 / 256

#: What makes a picture upright that has this orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: A JPEG is decoded at the smallest of 1/1, 1/2, 1/4, 1/8 that is at least so many times the size wanted.
DECODED_OVERSIZE = 2


#: Of pictures that are decoded with more pixels than this, one is in memory at a time: it may take 16 bytes a pixel.
MANY_PIXELS = 2**22

_one_large = threading.Lock()


class Limits(NamedTuple):
    """What a picture may cost, and what becomes of it; sides in pixels."""

    max_bytes: int
    max_pixels: int
    min_side: int
    longest_side: int
    quality: int


class Picture(NamedTuple):
    """A JPEG in RGB."""

    content: bytes
    width: int
    height: int


class UnusableError(Exception):
    """A picture cannot be used; `status` says why in one word, the message in more."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def normalised(content: bytes, *, limits: Limits) -> Picture:
    """Return the picture in content upright, in RGB over white, its longest side limits.longest_side at most, as JPEG.

    The same content and limits give the same bytes. Raises UnusableError where content is no whole picture within
    limits; its size is checked before anything is decoded.
    """
    if len(content) > limits.max_bytes:
        raise UnusableError("too_large", f"{len(content)} bytes of at most {limits.max_bytes}")
    Image.MAX_IMAGE_PIXELS = None  # limits.max_pixels is checked in its place
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image, limits=limits)
            image.draft(None, (limits.longest_side * DECODED_OVERSIZE,) * 2)
            with _one_large if image.width * image.height > MANY_PIXELS else contextlib.nullcontext():
                return _encoded(_upright_rgb(image), limits=limits)
    except UnidentifiedImageError as error:
        raise UnusableError("undecodable", f"no picture: begins with {content[:16]!r}") from error
    except UnusableError:
        raise
    except Exception as error:  # decoders raise anything at all on broken bytes
        raise UnusableError("undecodable", f"{type(error).__name__}: {error}") from error


def _check_size(image: Image.Image, *, limits: Limits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise UnusableError("too_many_pixels", f"{width} x {height} pixels, at most {limits.max_pixels} allowed")
    if min(width, height) < limits.min_side:
        raise UnusableError("too_small", f"{width} x {height} pixels, at least {limits.min_side} a side expected")


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    turn = TURNS.get(_orientation(image))
    upright = image.transpose(turn) if turn is not None else image
    if upright.mode.startswith("I"):
        upright = upright.point(lambda grey: grey * GREYS_OF_16_BITS).convert("L")
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        canvas = Image.new("RGB", upright.size, "white")
        canvas.paste(upright, mask=upright.getchannel("A"))
        return canvas
    return upright.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Return the one EXIF tag that is read, 1 where it is missing or cannot be read: many blocks are broken."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the reader raises anything at all on broken bytes
        return 1


def _encoded(image: Image.Image, *, limits: Limits) -> Picture:
    image.thumbnail((limits.longest_side, limits.longest_side), Image.Resampling.LANCZOS)
    bare = Image.new("RGB", image.size)  # without the comments and profiles that the original carries
    bare.paste(image)
    stream = io.BytesIO()
    bare.save(stream, "JPEG", quality=limits.quality)
    return Picture(stream.getvalue(), *bare.size)
