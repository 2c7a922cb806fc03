"""Embed each item's title and description: by TF-IDF, any `transformers` text model, or vectors that exist already."""

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from tessera.artifacts import read_table, write_json, write_table
from tessera.items.impairing import Impairment, impaired, remaining
from tessera.items.text_encoders import by_item, item_texts, mean_pooled, tfidf
from tessera.items.vectors import Vectors, fill_absent, precomputed, vector_metrics, vector_table
from tessera.params import PARAMS_FILE, Text, load_params
from tessera.places import at_home, found_at_home
from tessera.runtime import accelerator_on, is_main_process, progress, run
from tessera.schemas import ITEMS, VECTORS


def main(
    items: Annotated[Path, typer.Option(help="The items that remain, their text cleaned.")],
    vectors: Annotated[Path, typer.Option(help="Where the vectors go.")],
    metrics: Annotated[Path, typer.Option(help="Where the counts go.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    table, counts = pl.DataFrame(schema=VECTORS), dict[str, float](items=0)
    if "text" in params.modalities:
        catalogue = read_table(items, ITEMS)
        keys, impairment = catalogue["key"], Impairment(**params.text.model_dump(include=set(Impairment._fields)))
        kept = remaining(keys, missing=params.text.missing, seed=params.text.seed, modality="text")
        found, about_texts = embedded(catalogue.filter(kept), params.text, device=params.device)
        made = impaired(found, kept, impairment, keys=keys, modality="text")
        filled = fill_absent(made.vectors, modality="text")
        table = vector_table(catalogue["item"], filled)
        counts = vector_metrics(filled) | about_texts | made.counts
    if is_main_process():
        write_table(vectors, table, VECTORS)
        write_json(metrics, counts)


def embedded(catalogue: pl.DataFrame, text: Text, *, device: str) -> tuple[Vectors, dict[str, float]]:
    """Return the items' vectors, and what is to be told of their texts."""
    if text.encoder == "precomputed":
        return precomputed(at_home(Path(text.path)), catalogue["key"]), {}
    texts = item_texts(catalogue, fields=text.fields)
    if text.encoder == "tfidf":
        return by_item(tfidf(texts.texts, dimensions=text.dimensions), texts.rows, items=catalogue.height), {}
    read = mean_pooled(
        texts.texts,
        model=found_at_home(text.model, watch=text.watch, key="text.watch") if text.model else None,
        max_tokens=text.max_tokens,
        batch_size=text.batch_size,
        trust_remote_code=text.trust_remote_code,
        accelerator=accelerator_on(device, precision="auto"),
        progress=progress,
    )
    about_texts = {"mean_tokens": float(read.tokens.mean()), "truncated": float(read.truncated.mean())}
    return by_item(read.vectors, texts.rows, items=catalogue.height), about_texts


if __name__ == "__main__":
    run(main)
