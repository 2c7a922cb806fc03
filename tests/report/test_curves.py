import polars as pl

from tessera.report.curves import CURVE_POINTS, curves_of, history_of, points_of

NOTHING = pl.DataFrame({"epoch": []})


def test_what_a_history_holds_is_drawn_and_nothing_else():
    t5 = history_of([{"epoch": 1, "train_loss": 2.0, "valid_loss": 3.0}, {"epoch": 2, "train_loss": 1.0}])
    (loss,) = curves_of(distillation=NOTHING, quantizer=NOTHING, t5=t5, sequence=NOTHING)
    assert (loss.title, loss.points) == (
        "T5: loss",
        [("training", 1, 2.0), ("training", 2, 1.0), ("validation", 1, 3.0)],
    )
    assert curves_of(distillation=NOTHING, quantizer=NOTHING, t5=history_of([]), sequence=NOTHING) == []


def test_all_trainings():
    distillation = pl.DataFrame({"epoch": [1], "loss": [3.0], "dino": [2.0], "rq": [4.0], "used_0": [7]})
    quantizer = pl.DataFrame({"epoch": [1], "total": [3.0], "rq": [1.0], "recon": [2.0], "con": [4.0], "align": [5.0]})
    t5 = history_of([{"epoch": 1, "train_loss": 2.0, "valid_hr@10": 0.5}])
    sequence = pl.DataFrame({"epoch": [1], "loss": [2.5]})
    found = curves_of(distillation=distillation, quantizer=quantizer, t5=t5, sequence=sequence)
    assert [each.title for each in found] == [
        "Picture encoder: loss",
        "Quantizer: loss",
        "Quantizer: contrast between modalities",
        "T5: loss",
        "T5: validation",
        "Sequence encoder: loss",
    ]
    assert found[0].points == [("total", 1, 3.0), ("self-distillation", 1, 2.0), ("codes, before their weight", 1, 4.0)]


def test_a_loss_between_modalities_that_has_no_weight_is_not_drawn():
    history = pl.DataFrame({"epoch": [1, 2], "total": [3.0, 2.0], "con": [0.0, 0.0], "align": [0.0, 0.5]})
    found = curves_of(distillation=NOTHING, quantizer=history, t5=history_of([]), sequence=NOTHING)
    assert found[1].points == [("same item", 1, 0.0), ("same item", 2, 0.5)]
    alone = history.with_columns(align=0.0)
    found = curves_of(distillation=NOTHING, quantizer=alone, t5=history_of([]), sequence=NOTHING)
    assert [each.title for each in found] == ["Quantizer: loss"]


def test_long_histories_keep_their_first_and_last_epoch():
    history = pl.DataFrame({"epoch": range(1, 1001), "loss": range(1000)})
    points = points_of(history, "loss", "loss")
    assert len(points) <= CURVE_POINTS + 1
    assert (points[0].epoch, points[-1].epoch) == (1, 1000)
