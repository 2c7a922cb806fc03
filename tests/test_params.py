"""Every slip in params.yaml is an error that names the key, the expectation and the finding."""

from functools import reduce

import pytest

from tessera.errors import ParamsError
from tessera.items.catalogue import PRESENCE
from tessera.params import PRESENT, load_params


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant.lambda_cond": 0.1}, r"quant\.lambda_cond: expected no such key, found 0\.1"),
        ({"quant.lr": "1e-3"}, r"quant\.lr: expected a float, found '1e-3'"),
        ({"quant.levels": 2.0}, r"quant\.levels: expected an integer, found 2\.0"),
        ({"decode.renormalise": 1}, r"decode\.renormalise: expected true or false, found 1"),
        ({"decode.fusion": "median"}, r"decode\.fusion: .*'mean', 'mean_bonus', 'best' or 'learned', found 'median'"),
        ({"t5.dropout": 1.0}, r"t5\.dropout: .*less than 1, found 1\.0"),
        ({"modalities": []}, r"corpus\.tasks: expected .* none if there are none, found .* for \[\]"),
        ({"corpus.tasks": []}, r"corpus\.tasks: expected tasks if there are modalities .*, found \[\]"),
        ({"collaborative.members": ["itemknn"] * 2}, r"collaborative\.members: expected distinct names"),
        ({"collaborative.members": ["magic"]}, r"collaborative\.members\.0: .*'itemknn', .*, found 'magic'"),
        ({"collaborative.members": ["sasrec"]}, r"sequence\.encoder: expected sasrec, as .* names it, found none"),
        ({"sequence.heads": 3}, r"sequence\.width: expected a multiple of sequence\.heads = 3, found 64"),
        ({"modalities": ["text", "text"]}, r"modalities: expected distinct names"),
        (
            {"ids.collisions": "uniform"},
            r"quant\.sinkhorn_epsilon: expected a value above 0, as ids\.collisions is uniform, found 0\.0",
        ),
        (
            {"quant.lambda_diversity": 0.1, "quant.codebook_size": 19},
            r"quant\.diversity_clusters: expected at most half of quant\.codebook_size = 19, .* found 10",
        ),
        ({"quant.lambda_cf": 0.1}, r"sequence\.encoder, as there are to be collaborative vectors: expected a value"),
        ({"modalities": ["text", "collaborative"]}, r"sequence\.encoder, as there are to be collaborative vectors"),
        ({"modalities": ["text", "joint"]}, r"modalities: expected other names than 'joint'"),
        (
            {"ids.layout": "fused", "t5.alignment_epochs": 1},
            r"t5\.alignment_epochs: expected 0, as joint alone has IDs",
        ),
        ({"quant.con_start_level": 5}, r"quant\.con_start_level: expected at most quant\.levels = 4, found 5"),
        ({"quant.con_start_level": 4}, r"less than quant\.levels = 4, found as much, .* 0\.1 has no level to weigh"),
        ({"quant.method": "rkmeans"}, r"quant\.lambda_con: expected 0\.0, as quant\.method is rkmeans, .* found 0\.1"),
        (
            {"ids.layout": "fused", "corpus.tasks": ["history joint -> joint"], "quant.lambda_con": 0.0},
            r"quant\.lambda_align: expected 0\.0, as ids\.layout is fused, found 0\.001",
        ),
        (
            {"quant.lambda_cf": 0.1, "sequence.encoder": "sasrec", "sequence.width": 6, "sequence.heads": 2},
            r"sequence\.width: expected quant\.latent_dim = \d+, as quant\.lambda_cf is above 0, found 6",
        ),
        (
            {"t5.loss": "trie_softmax"},
            r"decode\.renormalise: expected true, as t5\.loss is trie_softmax, .* found false",
        ),
        ({"quant.codebook_size": 20_000}, r"quant\.codebook_size: expected at most 65536 tokens .*, found 160006 with"),
        ({"corpus.tasks": ["history text => text"]}, r"corpus\.tasks: .*, found 'history text => text'"),
        ({"corpus.tasks": ["history text->text"]}, r"corpus\.tasks: .*, found 'history text->text'"),
        ({"corpus.tasks": ["item text -> image"]}, r"corpus\.tasks: expected at least one 'history MODALITY -> same"),
        ({"corpus.tasks": ["history text -> text"] * 2}, r"corpus\.tasks: expected distinct tasks"),
        (
            {"corpus.tasks": ["history text -> text", "history text ~> image"]},
            r"corpus\.tasks: expected 'history image ~> text' beside 'history text ~> image'",
        ),
        ({"filter.valid_from": 0.9}, r"filter\.valid_from: expected less than filter\.test_from = 0\.9, found 0\.9"),
        ({"filter.valid_from": 0.0}, r"filter\.valid_from: .*greater than 0, found 0\.0"),
        ({"filter.test_from": 1.0}, r"filter\.test_from: .*less than 1, found 1\.0"),
        ({"filter.split": "random"}, r"filter\.split: .*'leave_one_out' or 'time', found 'random'"),
        ({"filter.cold_items": 1.0}, r"filter\.cold_items: .*less than 1, found 1\.0"),
        ({"text.missing": 1.0}, r"text\.missing: .*less than 1, found 1\.0"),
        ({"image.missing": -0.1}, r"image\.missing: .*greater than or equal to 0, found -0\.1"),
        ({"image.swapped": 1.1}, r"image\.swapped: .*less than or equal to 1, found 1\.1"),
        ({"text.noise": -1.0}, r"text\.noise: .*greater than or equal to 0, found -1\.0"),
        ({"dataset.users": 0}, r"dataset\.users: .*greater than or equal to 1, found 0"),
        ({"dataset.format": "amazon2012"}, r"dataset: .*'demo'.*"),
        ({"eval.history_bounds": [4, 4]}, r"eval\.history_bounds: expected numbers that rise, found \[4, 4\]"),
        (
            {"text.encoder": "precomputed"},
            r"text\.path, as text.encoder is precomputed: expected a value",
        ),
        ({"image.encoder": "open_clip"}, r"image\.model, as image.encoder is open_clip: expected a value"),
        (
            {"image.encoder": "rq_dino"},
            r"quant\.lambda_align: expected 0\.0, as image\.encoder is rq_dino, .*, found 0\.001",
        ),
        (
            {"image.encoder": "rq_dino", "quant.lambda_align": 0.0, "ids.layout": "fused"},
            r"ids\.layout: expected separate, concatenated or marked, as image\.encoder is rq_dino, .* found fused",
        ),
        ({"distill.lambda_rq": 0.0}, r"distill\.lambda_rq: .*greater than 0, found 0\.0"),
        ({"distill.scale": 1.0}, r"distill\.scale: .*less than 1, found 1\.0"),
        ({"distill.patch": "8"}, r"distill\.patch: expected an integer, found '8'"),
        (
            {"corpus.tasks": ["history text -> sound"]},
            r"tasks: expected modalities among \['text', 'image'\], found \['sound'\] in 'history text -> sound'",
        ),
        ({"modalities": ["text"]}, r"corpus\.tasks: expected modalities among \['text'\], found \['image'\]"),
        ({"ids.source": "file"}, r"ids\.path, as ids.source is file: expected a value"),
        ({"spped": 1}, r"spped: expected no such key, found 1"),
    ],
)
def test_slips_are_named(params_file, changes, message):
    with pytest.raises(ParamsError, match=message):
        load_params(params_file(changes))


def test_a_missing_key_is_named(params_file):
    file = params_file()
    file.write_text(file.read_text().replace("beams: 20, ", ""))
    with pytest.raises(ParamsError, match=r"decode\.beams: expected a value, found nothing"):
        load_params(file)


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(ParamsError, match=r"nowhere\.yaml: expected a file, found nothing"):
        load_params(tmp_path / "nowhere.yaml")
    with pytest.raises(ParamsError, match=r"expected a file: Is a directory"):
        load_params(tmp_path)
    (tmp_path / "broken.yaml").write_text("quant: [1")
    with pytest.raises(ParamsError, match=r"broken\.yaml: expected YAML"):
        load_params(tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    "changes",
    [
        {"quant.codebook_size": 8191},  # 2 modalities of 4 levels, 4 tasks with a token, padding and end: 65,534 tokens
        {"quant.codebook_size": 20_000, "ids.source": "file", "ids.path": "ids.parquet"},
        {"quant.method": "rkmeans", "ids.source": "file", "ids.path": "ids.parquet"},
        *(
            {"modalities": [], "corpus.tasks": [], **changes}
            for changes in ({"quant.method": "rkmeans"}, {"ids.layout": "fused"}, {"t5.loss": "trie_softmax"})
        ),
    ],
)
def test_what_nothing_reads_may_be_as_it_is(changes, params_file):
    found = load_params(params_file(changes))
    assert {key: reduce(getattr, key.split("."), found) for key in changes} == changes


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", ""])
def test_a_device_is_spelt_as_the_stages_know_it(params_file, device):
    with pytest.raises(ParamsError, match=r"device: .*found "):
        load_params(params_file({"device": device}))
    assert load_params(params_file({"device": "cuda:1"})).device == "cuda:1"


def test_what_no_item_can_be_seen_to_have_is_not_required(params_file):
    assert PRESENCE.keys() == PRESENT, "the parameters know what the filter can see"
    with pytest.raises(ParamsError, match=r"filter\.required: expected modalities of .*, found 'collaborative'"):
        load_params(params_file({"filter.required": ["collaborative"]}))


@pytest.mark.parametrize("written", ["1e-05", "1e-5", "1.0e-5", "0.00001"])
def test_every_way_to_write_a_float_is_one(params_file, written):
    file = params_file({"quant.lr": 123.5})
    file.write_text(file.read_text().replace("lr: 123.5", f"lr: {written}"))
    assert load_params(file).quant.lr == 1e-5


def test_parameters_are_frozen(params_file):
    params = load_params(params_file())
    with pytest.raises(ValueError, match="frozen"):
        params.quant.lr = 1.0
