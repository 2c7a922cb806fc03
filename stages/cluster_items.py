"""Give each item a pseudo-label per modality: its k-means cluster among the items that have the modality."""

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from tessera.artifacts import named_paths, read_table, write_json, write_table
from tessera.errors import ParamsError
from tessera.items.clusters import cluster_metrics, label_items
from tessera.params import PARAMS_FILE, load_params
from tessera.row_files import vector_rows
from tessera.runtime import progress, run
from tessera.schemas import LABELS, VECTORS


def main(
    vectors: Annotated[list[str], typer.Option(help="MODALITY=PATH of a modality's vectors; once a modality.")],
    labels: Annotated[Path, typer.Option(help="Where the pseudo-labels go.")],
    metrics: Annotated[Path, typer.Option(help="Where the clusters' measures go.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    paths = named_paths(vectors)
    missing = [modality for modality in params.modalities if modality not in paths]
    if missing:
        raise ParamsError(f"modalities: expected --vectors {missing[0]}=PATH, found only {sorted(paths)}")

    tables, measures = [pl.DataFrame(schema=LABELS)], {}
    for modality in progress(params.modalities, title="k-means"):
        shop = read_table(paths[modality], VECTORS, columns=["item", "present"])
        with vector_rows({modality: paths[modality]}, scratch=labels.parent, only_present=True) as rows:
            matrix = rows[modality].mapped()
            labelled = label_items(
                shop,
                matrix,
                modality=modality,
                clusters=params.pseudo.clusters,
                initialisations=params.pseudo.initialisations,
                iterations=params.pseudo.iterations,
                seed=params.seed,
            )
            measures[modality] = cluster_metrics(matrix, labelled["label"].drop_nulls().to_numpy())
        tables.append(labelled)
    write_table(labels, pl.concat(tables), LABELS)
    write_json(metrics, measures)


if __name__ == "__main__":
    run(main)
