"""Embed each item by who took it after what: the item embeddings of a sequence encoder, or nothing without one."""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer

from tessera.artifacts import read_table, whole_folder, write_json, write_table, write_tsv
from tessera.encoders.embedded import write_vectors
from tessera.items.vectors import Vectors, fill_absent, vector_metrics
from tessera.params import PARAMS_FILE, load_params
from tessera.recommender.corpus import histories
from tessera.runtime import progress, run, torch_device
from tessera.schemas import INTERACTIONS, VECTORS


def main(
    interactions: Annotated[Path, typer.Option(help="Interactions with positions and splits.")],
    encoder: Annotated[Path, typer.Option(help="Where the encoder goes: a folder with weights and config.json.")],
    vectors: Annotated[Path, typer.Option(help="Where the vectors go.")],
    history: Annotated[Path, typer.Option(help="Where each epoch's measures go, as TSV.")],
    metrics: Annotated[Path, typer.Option(help="Where the counts and the kept epoch's measures go.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    sequence = params.sequence
    if sequence.encoder == "none":
        write_nothing(encoder, vectors, history, metrics)
        return
    from tessera.recommender.sequence_encoder import Sizes, new_encoder, save_encoder
    from tessera.recommender.sequence_fitting import Settings, fit

    table = read_table(interactions, INTERACTIONS)
    items = table["item"].unique().sort()
    sizes = Sizes(
        kind=sequence.encoder,
        items=len(items),
        max_history=params.corpus.max_history,
        width=sequence.width,
        layers=sequence.layers,
        heads=sequence.heads,
        dropout=sequence.dropout,
    )
    fitted = fit(
        new_encoder(sizes, seed=params.seed).to(torch_device(params.device)),
        table,
        settings=Settings(**sequence.model_dump(include=set(Settings._fields))),
        valid=histories(table, split="valid", max_history=sizes.max_history) if sequence.patience else None,
        seed=params.seed,
        progress=partial(progress, title="epochs"),
    )
    trained = np.isin(items.to_numpy(), fitted.items.numpy())
    embeddings = fitted.encoder.items.weight.detach()[: len(items)].cpu().numpy().copy()  # to be filled
    filled = fill_absent(Vectors(embeddings, trained), modality="collaborative")
    with whole_folder(encoder) as folder:
        save_encoder(fitted.encoder, folder)
    write_vectors(vectors, items, filled)
    write_tsv(history, fitted.history)
    write_json(metrics, vector_metrics(filled) | fitted.history.row(fitted.epoch - 1, named=True))


def write_nothing(encoder: Path, vectors: Path, history: Path, metrics: Path) -> None:
    """Write what stands for an encoder and its vectors where there is none."""
    with whole_folder(encoder) as folder:
        write_json(folder / "config.json", {"kind": "none"})
    write_table(vectors, pl.DataFrame(schema=VECTORS), VECTORS)
    write_tsv(history, pl.DataFrame(schema=["epoch"]))
    write_json(metrics, {"items": 0})


if __name__ == "__main__":
    run(main)
