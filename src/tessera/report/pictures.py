"""Pictures small enough to stand inside the page."""

import base64
import io
from collections.abc import Mapping
from typing import Final

from PIL import Image, UnidentifiedImageError

from tessera.errors import DataError

#: Pixels of the longest side: twice what the page shows, for dense screens.
LONGEST_SIDE: Final = 160
QUALITY: Final = 75

#: Stored pictures are far below this; a larger one is none of ours.
MAX_PIXELS: Final = 4_000_000


def data_urls(pictures: Mapping[str, bytes]) -> dict[str, str]:
    """Return each picture (encoded, by key) as a data URL of a small JPEG, so that the page needs no other file.

    Raises DataError, naming the key, where a picture cannot be decoded or is beyond all bounds.
    """
    return {key: _data_url(key, picture) for key, picture in pictures.items()}


def _data_url(key: str, picture: bytes) -> str:
    try:
        with Image.open(io.BytesIO(picture)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"picture of {key}: expected at most {MAX_PIXELS} pixels, found {image.size}")
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            small = io.BytesIO()
            image.convert("RGB").save(small, "JPEG", quality=QUALITY)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"picture of {key}: cannot be decoded: {error}") from error
    return "data:image/jpeg;base64," + base64.b64encode(small.getvalue()).decode("ascii")
