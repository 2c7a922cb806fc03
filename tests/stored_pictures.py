"""Tables of pictures as fetch_images writes them, for the tests of what reads them."""

import io

import numpy as np
import polars as pl
from PIL import Image

#: The items of `tests/items/conftest.py`'s pictures, and which of them have one that can be decoded.
KEYS = pl.Series([*"6543210"])
PRESENT = [False, False, True, True, False, True, True]


def noise(seed, *, size=(40, 30)):
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8))


def stored(picture, **options):
    file = io.BytesIO()
    picture.save(file, format="JPEG", **options)
    return file.getvalue()


def written(path, pictures, *, keys=None, rows=4):
    table = pl.DataFrame(
        {"key": keys or [str(place) for place in range(len(pictures))], "picture": pictures, "status": "any"},
        schema_overrides={"picture": pl.Binary},
    )
    table.write_parquet(path, row_group_size=rows)
    return path
