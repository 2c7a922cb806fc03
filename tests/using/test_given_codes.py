"""New items where the codes of pictures were learned with their encoder."""

import pytest

from tessera.using.additions import add_items
from tessera.using.recommender import Recommender
from tessera.using.shop import load_shop, write_added
from tests.pipeline_runs import SMALL, STAGES, run_stages
from tests.recommended import assert_as_the_pipeline

DISTILLED = {"image.encoder": "rq_dino", "quant.lambda_align": 0.0}


@pytest.fixture
def distilled(tmp_path):
    (tmp_path / "run").mkdir()
    return run_stages([stage for stage in STAGES if stage != "write_report"], tmp_path / "run", SMALL | DISTILLED)


def test_new_items_take_codes_of_the_given_codebooks(distilled, new_items, tmp_path):
    assert_as_the_pipeline(Recommender.load(distilled), distilled)
    shop = load_shop(distilled)
    found = add_items(shop, new_items, precomputed={})
    write_added(tmp_path / "added", shop, items=found.items, ids=found.ids, vectors=found.vectors)
    more = Recommender.load(distilled, added=tmp_path / "added")
    for modality in ("text", "image"):
        codes = more.shop.ids.filter(modality=modality)["codes"]
        assert codes.n_unique() == len(codes) == more.shop.items.height
    assert more.recommend(["NEW1", "NEW2"])
