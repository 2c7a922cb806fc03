"""No dead knobs: every parameter changes what the first stage that reads it writes, and no earlier stage reads it.

The stages run once on a shop of a few shoppers. Then each parameter is changed, and the first stage that
dvc.yaml says reads it runs again on the same inputs: something that it writes must differ. Stages before it cannot
tell, since tests/test_pipeline.py holds them to the parameters that dvc.yaml lists.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tessera.params import AmazonDataset, DemoDataset, FolderDataset, Params
from tests.pipeline_runs import ROOT, SMALL, STAGES, TEXT_ALONE, run_stage, run_stages


class Knob(NamedTuple):
    """A parameter's new value, and what else has to be set for it to matter."""

    value: Any
    given: Mapping[str, Any] = MappingProxyType({})


#: What the parameters have to be for all of them to matter: dead codes, and a training of some epochs and steps.
BASE = SMALL | {
    "dataset.users": 80,
    "quant.codebook_size": 40,
    "quant.replace_dead_after": 1,
    "corpus.tasks": ["history text -> text", "history image -> image"],
    "t5.dropout": 0.1,
    "t5.lr": 0.01,
    "t5.epochs": 3,
    "t5.monitor_users": 10,
}
BY_TIME = {"filter.split": "time"}
SASREC = {"sequence.encoder": "sasrec"}
BERT4REC = {"sequence.encoder": "bert4rec"}
RQ_DINO = {"image.encoder": "rq_dino", "quant.lambda_align": 0.0}
ITEMKNN = {"corpus.teacher": "itemknn"}
SLIST = {"corpus.teacher": "slist"}
ALS = {"collaborative.members": ["als"]}
BPR = {"collaborative.members": ["bpr"]}
KNOBS = {
    "dataset.users": Knob(81),
    "dataset.items": Knob(61),
    "dataset.seed": Knob(1),
    "images.max_bytes": Knob(1000),
    "images.max_pixels": Knob(1000),
    "images.min_side": Knob(1000),
    "images.longest_side": Knob(50),
    "images.quality": Knob(50),
    "filter.k": Knob(4),
    "filter.min_rating": Knob(4.0),
    "filter.required": Knob(["image"], {**TEXT_ALONE, "filter.required": []}),
    "filter.ties": Knob("file_order"),
    "filter.split": Knob("time"),
    "filter.valid_from": Knob(0.7, BY_TIME),
    "filter.test_from": Knob(0.85, BY_TIME),
    "filter.cold_items": Knob(0.2),
    "filter.seed": Knob(1, {"filter.cold_items": 0.2}),
    "text.fields": Knob("apart"),
    "text.dimensions": Knob(8),
    "image.dimensions": Knob(8),
    "text.missing": Knob(0.2),
    "text.swapped": Knob(0.2),
    "text.noise": Knob(0.2),
    "text.seed": Knob(1, {"text.noise": 0.2}),
    "image.missing": Knob(0.2, RQ_DINO),
    "image.swapped": Knob(0.2),
    "image.noise": Knob(0.2),
    "image.seed": Knob(1, RQ_DINO | {"image.missing": 0.2}),
    "distill.size": Knob(24, RQ_DINO),
    "distill.patch": Knob(8, RQ_DINO),
    "distill.width": Knob(8, RQ_DINO),
    "distill.layers": Knob(2, RQ_DINO),
    "distill.heads": Knob(2, RQ_DINO),
    "distill.local_size": Knob(12, RQ_DINO),
    "distill.local_views": Knob(1, RQ_DINO),
    "distill.scale": Knob(0.6, RQ_DINO),
    "distill.jitter": Knob(0.0, RQ_DINO),
    "distill.hidden": Knob(8, RQ_DINO),
    "distill.bottleneck": Knob(4, RQ_DINO),
    "distill.prototypes": Knob(8, RQ_DINO),
    "distill.student_temperature": Knob(0.2, RQ_DINO),
    "distill.teacher_temperature": Knob(0.08, RQ_DINO),
    "distill.centre_momentum": Knob(0.5, RQ_DINO),
    "distill.momentum": Knob(0.5, RQ_DINO),
    "distill.lambda_rq": Knob(0.1, RQ_DINO),
    "distill.epochs": Knob(1, RQ_DINO),
    "distill.batch_size": Knob(16, RQ_DINO),
    "distill.lr": Knob(0.01, RQ_DINO),
    "distill.warmup": Knob(0.5, RQ_DINO),
    "distill.weight_decay": Knob(0.5, RQ_DINO),
    "distill.clip_norm": Knob(0.01, RQ_DINO),
    "modalities": Knob(["text"], {"filter.required": [], "corpus.tasks": ["history text -> text"]}),
    "sequence.encoder": Knob("sasrec"),
    "sequence.mask": Knob(0.6, BERT4REC),
    "sequence.width": Knob(4, SASREC),
    "sequence.layers": Knob(1, SASREC),
    "sequence.heads": Knob(1, SASREC),
    "sequence.dropout": Knob(0.0, SASREC),
    "sequence.epochs": Knob(1, SASREC),
    "sequence.batch_size": Knob(16, SASREC),
    "sequence.lr": Knob(0.01, SASREC),
    "sequence.weight_decay": Knob(0.5, SASREC),
    "sequence.patience": Knob(2, SASREC),
    "pseudo.clusters": Knob(5),
    "pseudo.initialisations": Knob(1),
    "pseudo.iterations": Knob(1),
    "seed": Knob(1, RQ_DINO),
    "quant.method": Knob("rkmeans", {"quant.lambda_con": 0.0, "quant.lambda_align": 0.0}),
    "quant.levels": Knob(3, RQ_DINO),
    "quant.codebook_size": Knob(8, RQ_DINO),
    "quant.latent_dim": Knob(4),
    "quant.hidden": Knob([8]),
    "quant.projection": Knob(True),
    "quant.alpha": Knob(0.5, RQ_DINO),
    "quant.lambda_con": Knob(0.0),
    "quant.con_start_level": Knob(3),
    "quant.lambda_align": Knob(0.1),
    "quant.lambda_diversity": Knob(0.1),
    "quant.diversity_clusters": Knob(3, {"quant.lambda_diversity": 0.1}),
    "quant.temperature": Knob(0.2),
    "quant.similarity": Knob("inner"),
    "quant.initialisation": Knob("random"),
    "quant.replace_dead_after": Knob(0, RQ_DINO),
    "quant.sinkhorn_epsilon": Knob(0.05),
    "quant.sinkhorn_iterations": Knob(1, {"quant.sinkhorn_epsilon": 0.05}),
    "quant.epochs": Knob(3),
    "quant.batch_size": Knob(20),
    "quant.lr": Knob(0.01),
    "quant.weight_decay": Knob(0.1),
    "ids.layout": Knob(
        "fused",
        {
            "ids.layout": "concatenated",
            "corpus.tasks": ["history joint -> joint"],
            "quant.lambda_con": 0.0,
            "quant.lambda_align": 0.0,
            "t5.lambda_implicit": 0.0,
        },
    ),
    "ids.collisions": Knob("extra_code"),
    "corpus.max_history": Knob(3, SASREC),
    "corpus.tasks": Knob(["history image -> image"]),
    "corpus.teacher": Knob("slist"),
    "corpus.taught": Knob(2, ITEMKNN),
    "t5.d_model": Knob(12),
    "t5.d_ff": Knob(12),
    "t5.d_kv": Knob(4),
    "t5.heads": Knob(2),
    "t5.encoder_layers": Knob(2),
    "t5.decoder_layers": Knob(2),
    "t5.dropout": Knob(0.0),
    "t5.initializer_factor": Knob(1.0),
    "t5.positions": Knob("items"),
    "t5.loss": Knob("trie_softmax", {"decode.renormalise": True}),
    "t5.lambda_implicit": Knob(0.0),
    "t5.alignment_epochs": Knob(1),
    "t5.alignment_batch_size": Knob(20, {"t5.alignment_epochs": 1}),
    "t5.temperature": Knob(1.0),
    "t5.epochs": Knob(2),
    "t5.batch_size": Knob(64),
    "t5.accumulation": Knob(2),
    "t5.lr": Knob(0.001),
    "t5.warmup": Knob(0.5),
    "t5.weight_decay": Knob(0.5),
    "t5.clip_norm": Knob(0.001),
    "t5.precision": Knob("bf16"),
    "t5.monitor": Knob("loss"),
    "t5.monitor_users": Knob(20),
    "t5.monitor_every": Knob(2),
    "t5.patience": Knob(1, {"t5.lr": 1e-12}),
    "decode.beams": Knob(5),
    "decode.renormalise": Knob(True),
    "decode.rescoring": Knob("history"),
    "decode.exclude_seen": Knob(True),
    "decode.fusion": Knob("best"),
    "collaborative.members": Knob(["itemknn"]),
    "collaborative.tokens": Knob(1, {"collaborative.members": ["itemknn"]}),
    "itemknn.reach": Knob(1, ITEMKNN),
    "itemknn.decay": Knob(0.1, ITEMKNN),
    "itemknn.reverse": Knob(0.0, ITEMKNN),
    "itemknn.column_power": Knob(1.0, ITEMKNN),
    "itemknn.row_power": Knob(0.0, ITEMKNN),
    "itemknn.recency": Knob(1.0, ITEMKNN),
    "slist.alpha": Knob(0.2, SLIST),
    "slist.regularisation": Knob(1.0, SLIST),
    "slist.decay": Knob(0.1, SLIST),
    "slist.recency": Knob(0.1, SLIST),
    "als.factors": Knob(4, ALS),
    "als.regularisation": Knob(1.0, ALS),
    "als.alpha": Knob(2.0, ALS),
    "als.iterations": Knob(1, ALS),
    "bpr.factors": Knob(4, BPR),
    "bpr.regularisation": Knob(1.0, BPR),
    "bpr.lr": Knob(0.01, BPR),
    "bpr.epochs": Knob(1, BPR),
    "eval.resamples": Knob(40),
    "eval.confidence": Knob(0.5),
    "eval.frequency_bounds": Knob([2]),
    "eval.history_bounds": Knob([7]),
    "report.examples": Knob(1),
    "system": Knob("mql4grec"),
    "encoder": Knob("other"),
    "scale": Knob("other"),
}

#: Those of the above that another stage reads too, whatever embeds the pictures.
LATER = {
    "seed": ("train_quantizer", Knob(1)),
    "quant.levels": ("train_quantizer", Knob(3)),
    "quant.codebook_size": ("train_quantizer", Knob(8)),
    "quant.alpha": ("train_quantizer", Knob(0.5)),
    "quant.replace_dead_after": ("train_quantizer", Knob(0)),
    **{
        parameter: ("rank_collaborative", KNOBS[parameter]._replace(given={"collaborative.members": [member]}))
        for parameter in KNOBS
        if (member := parameter.split(".")[0]) in ("itemknn", "slist")
    },
    "image.missing": ("embed_images", Knob(0.2)),
    "image.seed": ("embed_images", Knob(1, {"image.noise": 0.2})),
}

#: Parameters that need a server, a model or a file of the test's own, and those that must not change a result: each
#: with the test that shows it.
ELSEWHERE = {
    "dataset": "stages/test_download_reviews.py::test_the_format_decides_how_local_files_are_read",
    "dataset.name": "stages/test_filter_reviews.py::test_known_counts_that_differ_are_told_with_both_numbers",
    "dataset.format": "stages/test_download_reviews.py::test_the_format_decides_how_local_files_are_read",
    "dataset.reviews": "stages/test_download_reviews.py::test_a_category_from_the_web_is_fetched_once",
    "dataset.metadata": "stages/test_download_reviews.py::test_a_category_from_the_web_is_fetched_once",
    "dataset.checksums": "stages/test_download_reviews.py::test_the_checksum_of_each_source_is_checked",
    "dataset.path": "stages/test_download_reviews.py::test_a_folder_reads_the_same_wherever_it_is",
    "dataset.watch": "stages/test_download_reviews.py::test_a_source_that_nobody_watches_is_warned_of",
    "dataset.max_malformed": "stages/test_download_reviews.py::test_a_share_of_malformed_lines_is_allowed_and_no_more",
    "dataset.pictures": "stages/test_fetch_images.py::test_files_by_key_go_before_the_web",
    "dataset.expected": "stages/test_filter_reviews.py::test_known_counts_that_differ_are_told_with_both_numbers",
    "images.timeout": "stages/test_fetch_images.py::test_each_limit_decides",
    "images.retries": "stages/test_fetch_images.py::test_size_quality_retries_and_workers",
    "images.workers": "stages/test_fetch_images.py::test_size_quality_retries_and_workers",
    "text.encoder": "stages/test_embed_text.py::test_what_changes_the_vectors_of_a_model",
    "text.model": "stages/test_embed_text.py::test_what_changes_the_vectors_of_a_model",
    "text.max_tokens": "stages/test_embed_text.py::test_what_changes_the_vectors_of_a_model",
    "text.path": "stages/test_embed_text.py::test_precomputed_vectors_come_from_the_path",
    "text.watch": "stages/test_embed_text.py::test_a_model_that_nobody_watches_is_warned_of",
    "text.batch_size": "stages/test_embed_text.py::test_what_does_not_change_the_vectors_of_a_model",
    "text.trust_remote_code": "items/test_text_encoders.py::test_code_that_comes_with_a_model_runs_only_if_trusted",
    "image.encoder": "stages/test_embed_images.py::test_what_changes_the_vectors_of_a_model",
    "image.model": "stages/test_embed_images.py::test_what_changes_the_vectors_of_a_model",
    "image.checkpoint": "stages/test_embed_images.py::test_what_changes_the_vectors_of_a_model",
    "distill.backbone": "stages/test_distill_images.py::test_the_backbone_and_its_first_weights_are_parameters",
    "distill.checkpoint": "stages/test_distill_images.py::test_the_backbone_and_its_first_weights_are_parameters",
    "distill.watch": "stages/test_distill_images.py::test_a_checkpoint_that_nobody_watches_is_warned_of",
    "image.path": "stages/test_embed_images.py::test_precomputed_vectors_come_from_the_path",
    "image.watch": "stages/test_embed_images.py::test_a_checkpoint_that_nobody_watches_is_warned_of",
    "image.batch_size": "stages/test_embed_images.py::test_what_does_not_change_the_vectors_of_a_model",
    "quant.lambda_cf": "stages/test_train_quantizer.py::test_collaborative_vectors_are_read_where_lambda_cf_is_above_0",
    "ids.source": "stages/test_resolve_collisions.py::test_ids_are_matched_by_key_and_made_distinct",
    "ids.path": "stages/test_resolve_collisions.py::test_ids_are_matched_by_key_and_made_distinct",
    "t5.modality_masking": "recommender/test_fitting.py::test_modality_masking_is_for_sources_of_several",
    "decode.batch_size": "stages/test_train_and_rank.py::test_users_decoded_together_change_nothing",
    "device": "test_runtime.py::test_each_process_has_a_gpu_of_its_own",
    "launcher": "test_processes.py::test_two_processes_train_and_rank_as_one_does",
}


def all_parameters() -> set[str]:
    """Every key of params.yaml with its section; of the data set those of every format, and the choice of one."""
    found = {"dataset"}
    found |= {f"dataset.{key}" for form in (DemoDataset, AmazonDataset, FolderDataset) for key in form.model_fields}
    for name, field in Params.model_fields.items():
        keys = getattr(field.annotation, "model_fields", None)
        found |= {f"{name}.{key}" for key in keys} if keys else {name}
    return found


def first_reader(parameter: str) -> str:
    section = parameter.partition(".")[0]
    return next(stage for stage, spec in STAGES.items() if {parameter, section} & set(spec.get("params", [])))


def test_every_parameter_is_here_once():
    listed = [*KNOBS, *ELSEWHERE]
    assert len(set(listed)) == len(listed)
    assert set(listed) == all_parameters()


@pytest.mark.parametrize("parameter", ELSEWHERE)
def test_what_is_tested_elsewhere_is_there(parameter):
    file, _, test = ELSEWHERE[parameter].partition("::")
    source = (ROOT / "tests" / file).read_text()
    assert f"def {test}(" in source
    assert re.search(rf"\b{parameter.split('.')[-1]}\b", source)


@pytest.fixture(scope="module")
def usual(tmp_path_factory) -> Path:
    """The folder of a run of all stages with the parameters BASE."""
    return run_stages(STAGES, tmp_path_factory.mktemp("usual"), BASE)


@pytest.fixture(scope="module")
def written_given(usual, tmp_path_factory):
    """Return a function: what a stage writes, given some parameters, on the inputs of the usual run."""
    known: dict[str, dict[str, bytes]] = {}

    def written(stage: str, changes: Mapping[str, Any]) -> dict[str, bytes]:
        name = f"{stage} {dict(changes)}"
        if name not in known:
            folder = tmp_path_factory.mktemp("changed")
            run_stage(stage, folder, {**BASE, **changes}, inputs=usual)
            known[name] = {
                str(file.relative_to(folder)): file.read_bytes()
                for file in sorted(folder.rglob("*"))
                if file.is_file() and not file.is_symlink() and file.name not in ("params.yaml", "record.json")
            }
        return known[name]

    return written


@pytest.mark.parametrize(
    ("parameter", "stage", "knob"),
    [
        *((parameter, first_reader(parameter), knob) for parameter, knob in KNOBS.items()),
        *((parameter, *later) for parameter, later in LATER.items()),
    ],
)
def test_every_parameter_changes_what_its_first_reader_writes(parameter, stage, knob, written_given):
    as_it_was = written_given(stage, knob.given)
    changed = written_given(stage, {**knob.given, parameter: knob.value})
    assert as_it_was, f"{stage} wrote nothing"
    assert changed != as_it_was
