"""Pictures small enough to stand inside the page, each once."""

import base64
import io
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from PIL import Image, UnidentifiedImageError

from tessera.errors import DataError

#: Pixels of the longest side: twice what the page shows of most, for dense screens.
LONGEST_SIDE: Final = 144
QUALITY: Final = 72

#: Pictures that a page holds: some two megabytes.
MOST: Final = 800

#: Stored pictures are far below this; a larger one is none of ours.
MAX_PIXELS: Final = 4_000_000


class Pictures(NamedTuple):
    """The pictures of a page."""

    urls: list[str]
    places: Mapping[str, int]  # in urls, by item key
    left_out: frozenset[str]  # keys of items that have a picture for which there was no room


def wanted_first(
    keys: Iterable[str], pictured: frozenset[str], *, most: int = MOST
) -> tuple[list[str], frozenset[str]]:
    """Return the first so many of keys that are pictured, each once, and those for which there is no room."""
    wanted = list(dict.fromkeys(key for key in keys if key in pictured))
    return wanted[:most], frozenset(wanted[most:])


def pictures_of(pictures: Mapping[str, bytes], *, left_out: frozenset[str]) -> Pictures:
    """Return pictures (encoded, by key) as data URLs of small WebP files, so that the page needs no other file.

    Raises DataError, naming the key, where a picture cannot be decoded or is beyond all bounds.
    """
    keys = sorted(pictures)
    urls = [_data_url(key, pictures[key]) for key in keys]
    return Pictures(urls, {key: place for place, key in enumerate(keys)}, left_out)


def _data_url(key: str, picture: bytes) -> str:
    try:
        with Image.open(io.BytesIO(picture)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"picture of {key}: expected at most {MAX_PIXELS} pixels, found {image.size}")
            image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
            shown = image.convert("RGB")
            shown.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            small = io.BytesIO()
            shown.save(small, "WEBP", quality=QUALITY, method=2)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"picture of {key}: cannot be decoded: {error}") from error
    return "data:image/webp;base64," + base64.b64encode(small.getvalue()).decode("ascii")
