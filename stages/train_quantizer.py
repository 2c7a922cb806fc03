"""Learn the codebooks that turn the vectors of each modality into codes."""

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from tessera.artifacts import named_paths, read_table, whole_file, whole_folder, write_json
from tessera.codes.checkpoint import save
from tessera.codes.fitting import Schedule, fit
from tessera.codes.losses import Objective
from tessera.codes.quantizer import Architecture
from tessera.codes.tables import stack_labels, stack_vectors
from tessera.params import PARAMS_FILE, load_params
from tessera.runtime import progress, run, torch_device
from tessera.schemas import LABELS, VECTORS


def main(
    vectors: Annotated[list[str], typer.Option(help="NAME=PATH of a modality's vectors; once a modality.")],
    labels: Annotated[Path, typer.Option(help="The items' pseudo-labels.")],
    quantizer: Annotated[Path, typer.Option(help="To write: a folder with the weights and their config.json.")],
    history: Annotated[Path, typer.Option(help="To write: every loss term, a row an epoch, as TSV.")],
    metrics: Annotated[Path, typer.Option(help="To write: the last row of the history, as JSON.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    quant = params.quant
    paths = named_paths(vectors)
    tables = {name: read_table(path, VECTORS) for name, path in paths.items() if name in params.modalities}
    catalogue = stack_vectors(tables, modalities=params.modalities)
    fitted = fit(
        catalogue.vectors,
        stack_labels(read_table(labels, LABELS), catalogue),
        architecture=Architecture(
            method=quant.method,
            widths={name: matrix.shape[1] for name, matrix in catalogue.vectors.items()},
            levels=quant.levels,
            codebook_size=quant.codebook_size,
            latent_dim=quant.latent_dim,
            hidden=tuple(quant.hidden),
        ),
        objective=Objective(
            alpha=quant.alpha,
            lambda_con=quant.lambda_con,
            con_start_level=quant.con_start_level,
            lambda_align=quant.lambda_align,
            temperature=quant.temperature,
            similarity=quant.similarity,
        ),
        schedule=Schedule(
            epochs=quant.epochs,
            batch_size=quant.batch_size,
            lr=quant.lr,
            weight_decay=quant.weight_decay,
            initialisation=quant.initialisation,
            replace_dead_after=quant.replace_dead_after,
        ),
        generator=torch.Generator().manual_seed(params.seed),
        device=torch_device(params.device),
        progress=partial(progress, title="train_quantizer"),
    )
    with whole_folder(quantizer) as folder:
        save(fitted.quantizer, folder)
    with whole_file(history) as partial_file:
        fitted.history.write_csv(partial_file, separator="\t")
    write_json(metrics, fitted.history.row(-1, named=True))


if __name__ == "__main__":
    run(main)
