"""Embed each item's title and description: by TF-IDF, any `transformers` text model, or vectors that exist already."""

from pathlib import Path
from typing import Annotated

import typer

from tessera.artifacts import read_table, whole_folder, write_json
from tessera.encoders.embedded import write_nothing, write_vectors
from tessera.encoders.text import embed_texts
from tessera.items.fitted import save_fitted
from tessera.items.impairing import Impairment, impaired, remaining
from tessera.items.vectors import fill_absent, vector_metrics
from tessera.params import PARAMS_FILE, load_params
from tessera.runtime import is_main_process, run
from tessera.schemas import ITEMS


def main(
    items: Annotated[Path, typer.Option(help="The items that remain, their text cleaned.")],
    vectors: Annotated[Path, typer.Option(help="Where the vectors go.")],
    encoder: Annotated[Path, typer.Option(help="Where what the encoder has learned goes, for other items: a folder.")],
    metrics: Annotated[Path, typer.Option(help="Where the counts go.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    if "text" not in params.modalities:
        if is_main_process():
            write_nothing(vectors, encoder, metrics)
        return
    catalogue = read_table(items, ITEMS)
    keys, impairment = catalogue["key"], Impairment(**params.text.model_dump(include=set(Impairment._fields)))
    kept = remaining(keys, missing=params.text.missing, seed=params.text.seed, modality="text")
    found = embed_texts(catalogue.filter(kept), params.text, device=params.device, scratch=vectors.parent)
    if is_main_process():
        made = impaired(found.vectors, kept, impairment, keys=keys, modality="text")
        filled = fill_absent(made.vectors, modality="text")
        write_vectors(vectors, catalogue["item"], filled)
        with whole_folder(encoder) as folder:
            save_fitted(found.fitted, folder)
        write_json(metrics, vector_metrics(filled) | found.counts | made.counts)


if __name__ == "__main__":
    run(main)
