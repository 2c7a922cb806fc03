"""Train a T5 to generate the next item's ID; a training that was killed goes on from its last epoch."""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from tessera import products, recommender, tasks
from tessera.artifacts import read_json, read_parts, read_table, whole_file, whole_folder, write_json
from tessera.checkpoints import CheckpointStore, fingerprint
from tessera.curves import live_curves
from tessera.params import PARAMS_FILE, load_params
from tessera.places import at_home
from tessera.recommender.batches import gathered_samples
from tessera.recommender.corpus import codes_by_modality
from tessera.recommender.fitting import Settings, fit
from tessera.recommender.model import Sizes, new_model, save_model
from tessera.recommender.validation import validation_on
from tessera.recommender.vocabulary import Vocabulary
from tessera.row_files import Spool
from tessera.runtime import accelerator_on, is_main_process, log, progress, run
from tessera.schemas import CORPUS, IDS


def main(
    vocabulary: Annotated[Path, typer.Option(help="What each token means.")],
    ids: Annotated[Path, typer.Option(help="Semantic IDs.")],
    train: Annotated[Path, typer.Option(help="Training samples.")],
    valid: Annotated[Path, typer.Option(help="Validation samples.")],
    checkpoint: Annotated[Path, typer.Option(help="Where the model goes: a folder for `from_pretrained`.")],
    history: Annotated[Path, typer.Option(help="Where each epoch's measures go.")],
    curves: Annotated[Path, typer.Option(help="The folder where live curves grow.")],
    metrics: Annotated[Path, typer.Option(help="Where the best epoch's measures go.")],
    resume: Annotated[
        Path, typer.Option(help="Where what unfinished trainings need lies: checkpoints, samples.")
    ] = Path("checkpoints"),
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    words = Vocabulary.from_json(read_json(vocabulary))
    if not words.modalities:
        write_nothing(checkpoint, history, curves, metrics)
        return
    tokens = words.all_tokens(codes_by_modality(read_table(ids, IDS), words.modalities))
    accelerator = accelerator_on(params.device, precision=params.t5.precision)
    where = [accelerator.num_processes, accelerator.device.type, accelerator.mixed_precision, torch.__version__]
    # A training goes on only with what it began with.
    code = [
        *map(Path, (__file__, products.__file__, tasks.__file__)),
        *sorted(Path(recommender.__path__[0]).glob("*.py")),
    ]
    shaping = fingerprint([params.t5.model_dump(), params.seed, *where], files=[vocabulary, ids, train, valid, *code])
    store = CheckpointStore(at_home(resume), shaping)
    with live_curves(curves) as add_to_curves:
        fitted = fit(
            new_model(words, tokens, Sizes(**params.t5.model_dump(include=set(Sizes._fields))), seed=params.seed),
            gathered_samples(read_parts(train, CORPUS), partial(Spool, at_home(resume), np.int32)),
            validation_on(read_table(valid, CORPUS), tokens, words.tasks, users=params.t5.monitor_users),
            tokens,
            vocabulary=words,
            settings=Settings(**params.t5.model_dump(include=set(Settings._fields)), seed=params.seed),
            accelerator=accelerator,
            store=store,
            on_epoch=add_to_curves,
            progress=lambda steps, title: progress(steps, title=title),
        )
    if len(fitted.history) < params.t5.epochs:
        log.info(
            "valid %s was no better in t5.patience = %d looks: epoch %d of %d is the last, the weights are of epoch %d",
            params.t5.monitor,
            params.t5.patience,
            len(fitted.history),
            params.t5.epochs,
            fitted.best_epoch,
        )
    if accelerator.is_main_process:
        with whole_folder(checkpoint) as folder:
            save_model(fitted.model, folder)
        write_json(history, fitted.history)
        best = fitted.history[fitted.best_epoch - 1]
        about = {"parameters": fitted.model.num_parameters(), "epochs": len(fitted.history), "best": best}
        write_json(metrics, about | ({"alignment_loss": fitted.alignment[-1]} if fitted.alignment else {}))
        store.remove()


def write_nothing(checkpoint: Path, history: Path, curves: Path, metrics: Path) -> None:
    """Write what stands for a T5 where there are no IDs to generate."""
    if not is_main_process():
        return
    with whole_folder(checkpoint) as folder:
        write_json(folder / "config.json", {"model_type": "none: modalities is empty"})
    with whole_folder(curves) as folder, whole_file(folder / "plots" / "metrics" / "train_loss.tsv") as curve:
        curve.write_text("step\ttrain_loss\n")  # git keeps no empty folder
    write_json(history, [])
    write_json(metrics, {"parameters": 0, "epochs": 0})


if __name__ == "__main__":
    run(main)
