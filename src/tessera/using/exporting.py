"""Write a model as a folder that needs no run any more: model, IDs, vocabulary, items, encoders, and a card.

Who took what stays behind. The collaborative members of the ensemble go along: the sequence encoder, the items'
factors and the strengths of slist as they are, and of itemknn the strengths that it counted.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tessera.artifacts import read_json, whole_folder, write_json, write_table
from tessera.errors import CheckpointError
from tessera.measures import FINAL, rankings_in
from tessera.params import Params
from tessera.recommender.strengths import strengths_table
from tessera.schemas import IDS, ITEMS, STRENGTHS, VECTORS
from tessera.using.parts import (
    EMBEDDERS,
    EXPORT,
    FORMAT,
    MANIFEST,
    locked_stages,
    require_measured,
    sizes_of,
    strangers_in,
)
from tessera.using.recommender import SALES, Recommender, transitions_of
from tessera.using.shop import Shop

#: Parts that are copied as they are.
COPIED = (
    "params",
    "metrics",
    "vocabulary",
    "checkpoint",
    "sequence_encoder",
    "weights",
    "backbone",
    "codebooks",
    "quantizer",
    "text_encoder",
    "image_encoder",
)


def write_export(recommender: Recommender, folder: Path) -> None:
    """Write the model of recommender, with the items that were added to it, into folder: as a whole or not at all.

    Raises CheckpointError where folder is there and no export, or holds what is no part of it, or where the model was
    not measured as it is now, and TableError where a stage has not run.
    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        what = "a file" if folder.is_file() else "a folder that is none"
        raise CheckpointError(f"{folder}: expected a new folder or an earlier export, found {what}")
    if folder.exists() and (others := strangers_in(folder)):
        raise CheckpointError(
            f"{folder}: expected an earlier export with nothing else in it, which it would replace, found {others[0]}"
        )
    shop = recommender.shop
    if not shop.parts.is_export:
        require_measured(shop.parts.folder, locked_stages(shop.parts.folder))
    metrics = read_json(shop.parts["metrics"])
    with whole_folder(folder) as partial:
        for name in COPIED:
            _copy(shop.parts[name], partial / EXPORT[name])
        write_table(partial / EXPORT["items"], shop.items, ITEMS)
        write_table(partial / EXPORT["ids"], shop.ids, IDS)
        for modality in EMBEDDERS:
            write_table(partial / EXPORT[f"{modality}_vectors"], shop.vectors(modality), VECTORS)
        write_table(partial / EXPORT["popularity"], _sales(recommender), SALES)
        if "itemknn" in shop.params.collaborative.members:
            write_table(partial / EXPORT["transitions"], strengths_table(transitions_of(shop)), STRENGTHS)
        for member, name in (("als", "als_factors"), ("slist", "slist_strengths")):
            if member in shop.params.collaborative.members:
                _copy(shop.parts[name], partial / EXPORT[name])
        (partial / "README.md").write_text(card(shop, metrics))
        write_json(partial / MANIFEST, {"format": FORMAT, "trained": shop.trained, "files": sizes_of(partial)})


def card(shop: Shop, metrics: dict[str, Any]) -> str:
    """Return what a reader of an export wants to know first, as Markdown: what it is, how good, and how to use it."""
    params = shop.params
    rankings = rankings_in(metrics)
    measures = list(rankings[FINAL])
    rows = [[name, *(f"{values[measure]:.4f}" for measure in measures)] for name, values in rankings.items()]
    table = [["ranking", *measures], ["---"] * (len(measures) + 1), *rows]
    about = {
        "system": params.system,
        "data set": params.dataset.name,
        "items": f"{shop.trained:,} trained on, {shop.items.height - shop.trained:,} added since",
        "modalities": ", ".join(params.modalities) or "none",
        "collaborative members": ", ".join(params.collaborative.members) or "none",
        "encoder": params.encoder,
        "scale": params.scale,
        "seed": params.seed,
    }
    parts = [
        f"# {params.system} on {params.dataset.name}",
        "\n".join(f"- {name}: {value}" for name, value in about.items()),
        "Measured on the test split, the whole catalogue ranked:",
        "\n".join(f"| {' | '.join(row)} |" for row in table),
        "How to use it, with the library tessera:",
        "    from tessera import Recommender\n"
        '    shop = Recommender.load("FOLDER")\n'
        f"    shop.recommend({_example(shop)!r})",
        "All parameters stand in params.yaml. Users and their interactions are not part of this folder.",
        _outside(params),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _outside(params: Params) -> str:
    """Return which models items are embedded by that lie elsewhere."""
    named = {
        "text": (params.text.encoder, params.text.model),
        "image": (params.image.encoder, params.image.model),
    }
    models = [
        f"{name}.encoder {encoder} ({model})"
        for name, (encoder, model) in named.items()
        if name in params.modalities and encoder in ("transformers", "open_clip", "timm")
    ]
    return f"To add items it needs models that are named, not held: {', '.join(models)}." if models else ""


def _example(shop: Shop) -> list[str]:
    return shop.items["key"].head(2).to_list()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _sales(recommender: Recommender) -> pl.DataFrame:
    items = recommender.shop.items["item"]
    return pl.DataFrame({"item": items, "interactions": recommender.sales.astype(np.uint32)})
