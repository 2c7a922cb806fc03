"""What benchmarks/scale.py draws, and the table that it makes of it; docs/scale.md has the measured one."""

import importlib
from functools import partial

import numpy as np
import polars as pl
import pytest

from tessera.params import load_params
from tests.benchmarks.scripts import ROOT


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("scale")


def test_every_item_is_taken_often_enough_for_the_filter_and_some_much_more(scale):
    drawn = pl.concat(scale.interactions(2_000, draw=np.random.default_rng(0)))
    users, items = (drawn[name].value_counts()["count"] for name in ("user", "item"))
    assert len(users) == len(items) == 2_000
    assert users.min() == scale.SHORTEST
    assert users.mean() == pytest.approx(scale.AVERAGE, rel=0.05)
    assert items.min() >= scale.EACH
    assert items.max() > 20 * scale.EACH


def test_a_shop_is_a_folder_as_the_stages_read_it(scale, tmp_path):
    scale.draw(tmp_path, 60)
    found = {path.name for path in (tmp_path / "shop").iterdir()}
    assert found == {"items.parquet", "interactions.parquet", "text.parquet", "image.parquet"}
    vectors = pl.read_parquet(tmp_path / "shop/text.parquet")
    assert vectors["item"].to_list() == pl.read_parquet(tmp_path / "shop/items.parquet")["item"].to_list()
    assert vectors["vector"].to_numpy().shape == (60, scale.WIDTH)


def test_the_stages_take_its_parameters(scale, tmp_path):
    paths = ["dataset.path=/a/shop", "text.path=/a/file", "image.path=/a/file"]
    for overrides, method in (([], "rqvae"), ([scale.RESIDUAL_KMEANS], "rkmeans")):
        scale.write_params(tmp_path, *paths, *overrides)
        assert load_params(tmp_path / "params.yaml").quant.method == method


def test_the_table_tells_how_time_and_memory_grew(scale):
    few = scale.Run(100, 2_000, {"a": scale.Taken(2.0, 2**30), scale.STOPPED: scale.Taken(60.0, 2**30)})
    many = scale.Run(1_000, 20_000, {"a": scale.Taken(10.0, 3 * 2**30), scale.STOPPED: scale.Taken(60.0, 2**31)})
    told = scale.table([few, many])
    assert "| a | 2.0 | 1.00 | 10.0 | 3.00 | 5.0 | 3.0 |" in told
    assert f"| {scale.STOPPED} | 60.0 | 1.00 | 60.0 | 2.00 | stopped | 2.0 |" in told
    assert "2,000 of 100 items and 20,000 of 1,000 items" in told
    with_told = partial(scale.with_told, begin=scale.BEGIN, end=scale.END)
    page = f"before\n{scale.BEGIN}\nold\n{scale.END}\nafter\n"
    assert with_told(page, told) == f"before\n{scale.BEGIN}\n\n{told}\n\n{scale.END}\nafter\n"
    with pytest.raises(ValueError, match="expected <!-- growth"):
        with_told("no marks", told)


def test_the_page_has_every_stage_at_both_sizes(scale):
    page = (ROOT / "docs" / "scale.md").read_text()
    told = page[page.index(scale.BEGIN) : page.index(scale.END)]
    assert "100,000 items: s | GiB | 1,000,000 items: s | GiB" in told
    for stage in (*scale.BEFORE, scale.STOPPED, scale.RANKING, *scale.AFTER):
        assert f"| {stage} |" in told
