"""Learn the codebooks that turn the vectors of each modality into codes."""

from functools import partial
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from tessera.artifacts import named_paths, read_table, whole_folder, write_json, write_tsv
from tessera.codes.checkpoint import save
from tessera.codes.fitting import Schedule, fit
from tessera.codes.losses import Objective
from tessera.codes.quantizer import Architecture
from tessera.codes.tables import Vectors, collaborative_vectors, fused, stack_labels, stack_vectors
from tessera.params import PARAMS_FILE, load_params
from tessera.row_files import vector_rows
from tessera.runtime import is_main_process, progress, run, torch_device, torch_generator
from tessera.schemas import CODEBOOKS, LABELS, VECTORS

#: The modality whose vectors lambda_cf brings the others' codes near to, whether it has codes itself or not.
COLLABORATIVE = "collaborative"


def main(
    vectors: Annotated[list[str], typer.Option(help="NAME=PATH of a modality's vectors; once a modality.")],
    codebooks: Annotated[list[str], typer.Option(help="NAME=PATH of a modality's given codebooks; may be empty.")],
    labels: Annotated[Path, typer.Option(help="The items' pseudo-labels.")],
    quantizer: Annotated[Path, typer.Option(help="To write: a folder with the weights and their config.json.")],
    history: Annotated[Path, typer.Option(help="To write: every loss term, a row an epoch, as TSV.")],
    metrics: Annotated[Path, typer.Option(help="To write: the last row of the history, as JSON.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    if not is_main_process():
        return  # one process trains: the network is small, and its contrast wants the whole batch
    params = load_params(params_file)
    quant = params.quant
    given = {name for name, path in named_paths(codebooks).items() if read_table(path, CODEBOOKS).height}
    learned = [name for name in params.modalities if name not in given]
    if params.ids.source == "file" or not learned:
        why = "ids.source is file" if learned else "all codebooks are given" if given else "modalities is empty"
        write_nothing(quantizer, history, metrics, why=why)
        return
    files = named_paths(vectors)
    paths = {name: path for name, path in files.items() if name in params.modalities}
    tables = {name: read_table(path, VECTORS, columns=["item", "present"]) for name, path in paths.items()}
    with vector_rows(paths, scratch=quantizer.parent) as rows:
        catalogue = stack_vectors(tables, rows, modalities=params.modalities)
        if params.ids.layout == "fused":
            catalogue = Vectors(catalogue.items, *fused(catalogue.vectors, catalogue.present))
        known = None
        if quant.lambda_cf > 0 and COLLABORATIVE in files:
            known = collaborative_vectors(read_table(files[COLLABORATIVE], VECTORS), catalogue)
        fitted = fit(
            catalogue.vectors,
            stack_labels(read_table(labels, LABELS), catalogue),
            architecture=Architecture(
                method=quant.method,
                widths={name: found.shape[1] for name, found in catalogue.vectors.items() if name not in given},
                levels=quant.levels,
                codebook_size=quant.codebook_size,
                latent_dim=quant.latent_dim,
                hidden=tuple(quant.hidden),
                projection=quant.projection,
            ),
            objective=Objective(**quant.model_dump(include=set(Objective.__dataclass_fields__))),
            schedule=Schedule(**quant.model_dump(include=set(Schedule.__dataclass_fields__))),
            generator=torch_generator(params.seed),
            device=torch_device(params.device),
            progress=partial(progress, title="epochs"),
            collaborative=known,
        )
    with whole_folder(quantizer) as folder:
        save(fitted.quantizer, folder)
    write_tsv(history, fitted.history)
    write_json(metrics, fitted.history.row(-1, named=True))


def write_nothing(quantizer: Path, history: Path, metrics: Path, *, why: str) -> None:
    """Write what stands for a quantizer where none is needed, and why."""
    with whole_folder(quantizer) as folder:
        write_json(folder / "config.json", {"method": f"none: {why}"})
    write_tsv(history, pl.DataFrame(schema=["epoch"]))
    write_json(metrics, {"epoch": 0})


if __name__ == "__main__":
    run(main)
