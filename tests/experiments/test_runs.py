import pytest

from tessera.compose import composed
from tessera.experiments.runs import fingerprint, plan_runs
from tessera.experiments.tables import Row, Table, load_table
from tessera.params import Params, parsed_section
from tests.experiments.test_tables import TABLES
from tests.pipeline_runs import ROOT

CONF = ROOT / "conf"

#: What a table leaves to its user to name.
TO_BE_NAMED = {
    "movielens_small": [f"dataset.path={ROOT}"],
    "movielens_pretrained": [f"dataset.path={ROOT}", "text.model=/a/folder", "image.checkpoint=/a/file"],
    "instruments": [f"{name}.path=/a/file" for name in ("text", "image", "ids")],
    "instruments_published": [f"{name}.path=/a/file" for name in ("text", "image", "ids")],
    "instruments_taught": [f"{name}.path=/a/file" for name in ("text", "image", "ids")],
    "instruments_ablation": [f"{name}.path=/a/file" for name in ("text", "image")],
}


def params(*overrides):
    return parsed_section(composed(CONF, overrides), Params, source=CONF)


def table(**rows):
    return Table(
        title="t", datasets=["demo"], seeds=2, rows={name: Row(overrides=overrides) for name, overrides in rows.items()}
    )


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_the_projects_tables_is_valid(name):
    known = load_table(ROOT / "experiments", name).model_copy(update={"seeds": 2})
    plans, refusals = plan_runs(known, conf=CONF, settings=TO_BE_NAMED.get(name, []))
    assert refusals == []
    wanted = {
        (row, dataset) for row in known.rows for dataset in known.datasets if known.rows[row].overrides is not None
    }
    assert {(plan.row, plan.dataset) for plan in plans} == wanted
    assert len({plan.fingerprint for plan in plans}) == len(plans), "two rows are the same"


def test_a_plan_is_what_is_typed_after_set_param():
    """Later ones win: those of a row over those of the command line, and these over those of the table."""
    mine = table(one=["quant.levels=3"]).model_copy(update={"overrides": ["quant.levels=5", "quant.alpha=0.5"]})
    plans, _ = plan_runs(mine, conf=CONF, settings=["quant.levels=4", "quant.alpha=0.75"])
    assert [plan.seed for plan in plans] == [0, 1]
    for plan in plans:
        typed = params(*plan.overrides)
        assert (typed.quant.levels, typed.quant.alpha, typed.seed) == (3, 0.75, plan.seed)
        assert plan.fingerprint == fingerprint(typed)


def test_what_follows_the_seed_is_another_run_of_each_seed():
    """A run is found by what it ran with: text.seed is 1 in the run of seed 1, where an override says so."""
    plans, _ = plan_runs(table(one=["text.noise=1.0", "text.seed=${seed}"]), conf=CONF, settings=[])
    assert [params(*plan.overrides).text.seed for plan in plans] == [0, 1]
    assert [plan.fingerprint for plan in plans] == [fingerprint(params(*plan.overrides)) for plan in plans]


def test_a_row_that_conf_cannot_carry_is_refused_with_the_reason():
    plans, refusals = plan_runs(
        table(group=["system=nowhere"], key=["quant.nope=1"], value=["quant.levels=0"], none=None, good=[]),
        conf=CONF,
        settings=[],
    )
    assert {plan.row for plan in plans} == {"good"}
    reasons = {refusal.row: refusal.reason for refusal in refusals}
    assert list(reasons) == ["group", "key", "value"]
    assert reasons["group"] == "Could not find 'system/nowhere'"
    assert reasons["key"] == "Could not override 'quant.nope'."
    assert "quant.levels: input should be greater than or equal to 1, found 0" in reasons["value"]


def test_runs_are_told_apart_by_their_parameters_and_not_by_where_they_run():
    usual = fingerprint(params())
    assert usual == fingerprint(params("system=macrec", "device=cpu", "launcher=torchrun"))
    assert usual == fingerprint(params("quant.alpha=2.5e-1"))
    assert len({usual, fingerprint(params("seed=1")), fingerprint(params("quant.alpha=0.5"))}) == 3
