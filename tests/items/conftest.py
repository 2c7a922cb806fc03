import pytest

from tests.stored_pictures import noise, stored, written


@pytest.fixture
def pictures(tmp_path):
    """Seven items, of which item 2 has no picture, item 5 half a file, and item 6 no row at all."""
    files = [stored(noise(seed)) for seed in range(6)]
    files[2], files[5] = None, files[5][: len(files[5]) // 2]
    return written(tmp_path / "images.parquet", [*files, stored(noise(7))], keys=[*"012345", "nobody's"])
