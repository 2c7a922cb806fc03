"""The stage that gives every item its ID, from vectors and quantizer, or from a file."""

import json

import numpy as np
import polars as pl
import pytest
import torch

from stages.resolve_collisions import main
from tessera.artifacts import read_table, write_table
from tessera.codes.checkpoint import save
from tessera.codes.encoding import encode
from tessera.codes.quantizer import Architecture, CrossModalQuantizer, initialise_layers
from tessera.errors import CheckpointError, DataError, TableError
from tessera.items.distillation import codebook_table
from tessera.residual import residual_kmeans
from tessera.schemas import CODEBOOKS, IDS, ITEMS, VECTORS
from tests.pipeline_runs import TEXT_ALONE

COUNT = 60
WIDTHS = {"text": 6, "image": 5}
NONE = pl.DataFrame(schema=CODEBOOKS)
SMALL = {"device": "cpu", "modalities": ["text", "image"], "quant.codebook_size": 8}


def matrix(modality):
    return np.random.default_rng(WIDTHS[modality]).normal(size=(COUNT, WIDTHS[modality])).astype(np.float32)


def vectors(modality):
    return pl.DataFrame(
        {
            "item": pl.Series(range(COUNT), dtype=pl.UInt32),
            "vector": pl.Series(matrix(modality), dtype=pl.Array(pl.Float32, WIDTHS[modality])),
            "present": pl.Series([True] * COUNT),
        }
    )


def items():
    return pl.DataFrame(
        {
            "item": pl.Series(range(COUNT), dtype=pl.UInt32),
            "key": [f"B{number:03d}" for number in range(COUNT)],
            "title": [""] * COUNT,
            "description": [""] * COUNT,
            "categories": pl.Series([[]] * COUNT, dtype=pl.List(pl.String)),
            "has_picture": [True] * COUNT,
            "interactions": pl.Series([5] * COUNT, dtype=pl.UInt32),
        },
        schema=ITEMS,
    )


def a_quantizer(widths=None, levels=3):
    architecture = Architecture("rqvae", dict(widths or WIDTHS), levels, 8, 4, (8,), projection=False)
    quantizer = CrossModalQuantizer(architecture)
    generator = torch.Generator().manual_seed(0)
    initialise_layers(quantizer, generator=generator)
    for part in quantizer.parts:
        # The first codes are few, so that many items share theirs.
        torch.nn.init.normal_(part.codebooks, std=0.3, generator=generator)
        part.codebooks.data[0, 2:] += 9
    return quantizer


def published():
    draw = np.random.default_rng(0)
    rows = [(f"B{n:03d}", m, draw.integers(0, 3, size=4).tolist()) for m in WIDTHS for n in range(COUNT)]
    return pl.DataFrame(
        rows, schema={"item": pl.String, "modality": pl.String, "codes": pl.List(pl.Int64)}, orient="row"
    )


@pytest.fixture
def resolve(tmp_path, params_file):
    """Return `resolve(changes..., ...)`, which runs the stage and gives its two outputs."""

    def run(changes=None, *, quantizer=None, tables=None, ids=None, codebooks=NONE):
        for name, table in (tables or {name: vectors(name) for name in WIDTHS}).items():
            write_table(tmp_path / f"{name}.parquet", table, VECTORS)
        write_table(tmp_path / "items.parquet", items(), ITEMS)
        write_table(tmp_path / "codebooks.parquet", codebooks, CODEBOOKS)
        (tmp_path / "quantizer").mkdir(exist_ok=True)
        save(quantizer or a_quantizer(), tmp_path / "quantizer")
        if ids is not None:
            ids.write_parquet(tmp_path / "published.parquet")
            changes = {**(changes or {}), "ids.source": "file", "ids.path": str(tmp_path / "published.parquet")}
        main(
            vectors=[f"{name}={tmp_path / name}.parquet" for name in (tables or WIDTHS)],
            quantizer=tmp_path / "quantizer",
            codebooks=[f"image={tmp_path / 'codebooks.parquet'}"],
            items=tmp_path / "items.parquet",
            ids=tmp_path / "ids.parquet",
            code_usage=tmp_path / "code_usage.tsv",
            metrics=tmp_path / "metrics.json",
            params_file=params_file({**SMALL, **(changes or {})}),
        )
        return read_table(tmp_path / "ids.parquet", IDS), json.loads((tmp_path / "metrics.json").read_text())

    return run


def given_codebooks(levels=2, size=8):
    return torch.randn(levels, size, WIDTHS["image"], generator=torch.Generator().manual_seed(0))


def nearest_codewords(vectors, codebooks):
    """Level by level, the codeword nearest to what the ones before have left."""
    codes = []
    for codebook in codebooks.numpy():
        codes.append(np.square(vectors[:, None] - codebook).sum(-1).argmin(1))
        vectors = vectors - codebook[codes[-1]]
    return np.stack(codes, 1)


@pytest.mark.parametrize("rule", ["reassign", "uniform", "extra_code"])
def test_codes_of_given_codebooks_are_the_nearest_codewords(resolve, rule):
    codebooks = given_codebooks()
    changes = {"ids.collisions": rule, "quant.sinkhorn_epsilon": 0.003}
    trained = a_quantizer({"text": WIDTHS["text"]})  # knows nothing of pictures
    part, generator = trained.of("text"), torch.Generator().manual_seed(0)
    points = part.latents(torch.from_numpy(matrix("text"))).detach()
    part.codebooks.data.copy_(residual_kmeans(points, levels=3, size=8, generator=generator))
    table, metrics = resolve(changes, quantizer=trained, codebooks=codebook_table(codebooks))
    rows = table.filter(modality="image")
    assert np.array_equal(np.array(rows["first_codes"].to_list()), nearest_codewords(matrix("image"), codebooks))
    assert rows["codes"].n_unique() == COUNT
    assert metrics["image"]["collision_rate_after"] == 0
    encoded = encode(trained, "text", torch.from_numpy(matrix("text")), device=torch.device("cpu"))
    assert np.array_equal(np.array(table.filter(modality="text")["first_codes"].to_list()), encoded.codes)


def test_given_codebooks_alone_need_no_quantizer(resolve, tmp_path):
    (tmp_path / "quantizer").mkdir()
    table, _ = resolve(
        {"modalities": ["image"], "corpus.tasks": ["history image -> image"], "t5.lambda_implicit": 0.0},
        tables={"image": vectors("image")},
        codebooks=codebook_table(given_codebooks()),
    )
    assert table["modality"].unique().to_list() == ["image"]


def test_given_codebooks_of_another_size_are_named(resolve):
    with pytest.raises(CheckpointError, match=r"image: expected codebooks of 2 levels with 8 codes each, .* found 10"):
        resolve(codebooks=codebook_table(given_codebooks(size=5)))
    with pytest.raises(CheckpointError, match=r"image: expected codebooks of 2 levels with 8 codes each, .* found 15"):
        resolve(codebooks=codebook_table(given_codebooks()).slice(1))


def distinct(table, modality, column="codes"):
    return table.filter(modality=modality)[column].n_unique()


def test_every_item_gets_an_id_of_its_own_in_each_modality(resolve):
    table, metrics = resolve()
    for modality in WIDTHS:
        rows = table.filter(modality=modality)
        assert rows["item"].to_list() == list(range(COUNT))
        assert distinct(table, modality) == COUNT
        expected = 100 * (COUNT - distinct(table, modality, "first_codes")) / COUNT
        assert metrics[modality]["collision_rate_before"] == pytest.approx(expected)
        assert expected > 0
        assert metrics[modality]["collision_rate_after"] == 0
        assert metrics[modality]["items_moved"] == rows["moved"].sum() > 0
        assert rows["moved"].to_list() == (rows["codes"] != rows["first_codes"]).to_list()


def test_metrics_have_their_fixed_names(resolve):
    _, metrics = resolve()
    assert list(metrics) == ["text", "image"]
    assert set(metrics["text"]) == {
        *("collision_rate_before", "collision_rate_after", "largest_group_before", "largest_group_after"),
        *("items_moved", "levels", "levels_before", "items_lent_a_path"),
    }
    assert list(metrics["text"]["levels"]) == ["0", "1", "2"]
    assert set(metrics["text"]["levels"]["0"]) == {"codes_used", "perplexity", "entropy"}


def test_the_use_of_codes_is_that_of_the_ids(resolve, tmp_path):
    table, metrics = resolve()
    usage = pl.read_csv(tmp_path / "code_usage.tsv", separator="\t")
    for modality in WIDTHS:
        for level, measures in metrics[modality]["levels"].items():
            shares = usage.filter(modality=modality, level=int(level))["share"]
            assert (shares > 0).sum() == measures["codes_used"]
            codes = table.filter(modality=modality)["codes"].list.get(int(level))
            assert shares[0] == pytest.approx(codes.value_counts()["count"].max() / COUNT)


def test_first_codes_are_the_quantizers(resolve):
    table, _ = resolve()
    codes = encode(a_quantizer(), "image", torch.tensor(matrix("image")), device=torch.device("cpu")).codes
    assert table.filter(modality="image")["first_codes"].to_list() == codes.tolist()


def test_the_same_parameters_write_the_same_files(resolve, tmp_path):
    def written():
        resolve()
        return [(tmp_path / name).read_bytes() for name in ("ids.parquet", "metrics.json")]

    assert written() == written()


def test_collisions_none_leaves_them(resolve):
    table, metrics = resolve({"ids.collisions": "none"})
    assert distinct(table, "text") == distinct(table, "text", "first_codes") < COUNT
    assert metrics["text"]["collision_rate_after"] == metrics["text"]["collision_rate_before"] > 0
    assert metrics["text"]["items_moved"] == 0


def test_collisions_uniform_shares_last_codes_out_as_the_quantizers_parameters_say(resolve):
    def codes(**changes):
        uniform = {"ids.collisions": "uniform", **TEXT_ALONE, "quant.sinkhorn_epsilon": 0.003, **changes}
        table, _ = resolve(uniform)
        assert distinct(table, "text") == COUNT
        return table["codes"].to_list()

    assert codes() != codes(**{"quant.sinkhorn_iterations": 1})
    assert codes() != codes(**{"quant.sinkhorn_epsilon": 1.0})


def test_collisions_extra_code_adds_a_level(resolve):
    quantizer = a_quantizer(levels=4)
    table, metrics = resolve({"ids.collisions": "extra_code", **TEXT_ALONE}, quantizer=quantizer)
    assert set(table["codes"].list.len()) == {5}
    assert distinct(table, "text") == COUNT
    assert not table["moved"].any()
    assert list(metrics["text"]["levels"]) == ["0", "1", "2", "3", "4"]


def test_items_that_lack_a_modality_take_the_path_of_one_that_is_like_them(resolve):
    lacking = list(range(0, COUNT, 3))
    without = vectors("image").with_columns(present=~pl.col("item").is_in(lacking))
    table, metrics = resolve(tables={"text": vectors("text"), "image": without})
    codes = encode(a_quantizer(), "image", torch.tensor(matrix("image")), device=torch.device("cpu")).codes
    text, first = matrix("text"), table.filter(modality="image")["first_codes"].to_list()
    for item in range(COUNT):
        others = [other for other in range(COUNT) if other not in lacking]
        nearest = min(others, key=lambda other: np.square(text[item] - text[other]).sum()) if item in lacking else item
        assert first[item] == codes[nearest].tolist()
    assert metrics["image"]["collision_rate_after"] == 0
    own = [codes[item].tolist() for item in range(COUNT) if item not in lacking]
    distinct_own = len({*map(tuple, own)})
    assert metrics["image"]["collision_rate_before"] == pytest.approx(100 * (len(own) - distinct_own) / len(own))
    moved = table.filter(pl.col("moved"), ~pl.col("item").is_in(lacking), modality="image").height
    assert metrics["image"]["items_moved"] == moved < table.filter(pl.col("moved"), modality="image").height
    assert (metrics["text"]["items_lent_a_path"], metrics["image"]["items_lent_a_path"]) == (0, len(lacking))


def test_a_modality_not_in_use_has_no_ids(resolve):
    table, metrics = resolve(TEXT_ALONE)
    assert set(table["modality"]) == {"text"}
    assert list(metrics) == ["text"]


class TestFromAFile:
    def test_ids_are_matched_by_key_and_made_distinct(self, resolve):
        table, metrics = resolve(ids=published().sample(fraction=1.0, shuffle=True, seed=1))
        expected = published().filter(modality="text")["codes"].to_list()
        assert table.filter(modality="text")["first_codes"].to_list() == expected
        assert distinct(table, "text") == COUNT
        assert metrics["text"]["collision_rate_before"] > 0
        assert metrics["text"]["collision_rate_after"] == 0

    def test_the_quantizer_is_not_read(self, resolve):
        strange = a_quantizer(widths={"sound": 3})
        assert resolve(ids=published(), quantizer=strange)[0].height == 2 * COUNT

    def test_vectors_decide_who_moves_and_without_them_the_order_of_codes(self, resolve):
        with_vectors, _ = resolve(ids=published())
        empty = {name: vectors(name).clear() for name in WIDTHS}
        without, _ = resolve(ids=published(), tables=empty)
        assert distinct(without, "text") == COUNT
        assert without["codes"].to_list() != with_vectors["codes"].to_list()

    def test_the_codebook_size_bounds_where_items_can_go(self, resolve):
        few, _ = resolve({"quant.codebook_size": 3, **TEXT_ALONE}, ids=published())
        assert max(few["codes"].list.max()) == 2
        many, _ = resolve({"quant.codebook_size": 4, **TEXT_ALONE}, ids=published())
        assert max(many["codes"].list.max()) == 3

    def test_what_is_wrong_is_named(self, resolve, tmp_path):
        with pytest.raises(DataError, match="found 1 with no ID of image: B059"):
            resolve(ids=published().head(2 * COUNT - 1))
        with pytest.raises(TableError, match=r"published.parquet: expected columns item"):
            resolve(ids=published().drop("modality"))
        assert not (tmp_path / "ids.parquet").exists()
        assert not (tmp_path / "metrics.json").exists()


def test_what_does_not_belong_together_is_named_and_nothing_is_written(resolve, tmp_path):
    with pytest.raises(CheckpointError, match=r"expected codebook_size 9, as quant.codebook_size says, found 8"):
        resolve({"quant.codebook_size": 9})
    with pytest.raises(CheckpointError, match="expected modality image, found text"):
        resolve(quantizer=a_quantizer({"text": 6}))
    with pytest.raises(CheckpointError, match="expected text vectors of width 7, found 6"):
        resolve(quantizer=a_quantizer({"text": 7, "image": 5}))
    with pytest.raises(CheckpointError, match="expected text vectors of width 6, found 0"):
        resolve(tables={"text": vectors("text").clear(), "image": vectors("image")})
    with pytest.raises(DataError, match="text: expected vectors of the same 60 items"):
        resolve(tables={"text": vectors("text").head(59), "image": vectors("image")})
    crowded = pl.DataFrame({"item": items()["key"], "modality": "text", "codes": [[0, 0, 0]] * COUNT})
    with pytest.raises(DataError, match=r"quant.codebook_size: .* found none for 11: B0\d\d, "):
        resolve({"quant.codebook_size": 7, **TEXT_ALONE}, ids=crowded)
    assert not (tmp_path / "ids.parquet").exists()
    assert not (tmp_path / "metrics.json").exists()
