"""What the report says of semantic IDs: how codes are used, what levels mean, the trees, what collided."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from tessera.report.categories import LevelAgreement, agreement_of, labels_of
from tessera.report.code_use import Codes, codes_of
from tessera.report.collided import Collided, collided_of
from tessera.report.content import Document
from tessera.report.tree import Node, items_with_ids, tree_of


class SemanticIds(NamedTuple):
    """All of it; of a system without IDs there is nothing."""

    codes: Sequence[Codes]
    category_depth: int | None  # in the items' paths, None where no depth tells them apart
    categorised: int  # items that have a category of that depth
    categories: Mapping[str, Sequence[LevelAgreement]]  # by modality
    trees: Mapping[str, Node]  # by modality
    collided: Sequence[Collided]
    lent: int  # IDs, of all modalities, of items that lack it


def semantic_ids_of(
    ids: pl.DataFrame,
    items: pl.DataFrame,
    collisions: Document,
    lent: pl.DataFrame,
    *,
    codebook_size: int,
    levels: int,
    generator: np.random.Generator,
) -> SemanticIds:
    """Return what there is to say of ids: item, modality, codes, first_codes, moved.

    items has item, key, title and categories, in the order of item from 0; collisions are the metrics of
    resolve_collisions; lent has the items (item, modality) that were given the codes of another.
    """
    labels = labels_of(items)
    names = [labels.names[place] if place >= 0 else "" for place in labels.of_items] if labels else [""] * items.height
    by_modality = {str(name): ids.filter(modality=name) for name in ids["modality"].unique(maintain_order=True)}
    categories = {}
    if labels:
        for name, own in by_modality.items():
            of_items = labels.of_items[own["item"].to_numpy()]
            categories[name] = agreement_of(own["codes"].to_list(), of_items, generator=generator)
    quantised = ids.join(lent, on=["item", "modality"], how="anti", maintain_order="left")
    return SemanticIds(
        codes=codes_of(collisions, ids, quantised, codebook_size=codebook_size, levels=levels),
        category_depth=labels.depth if labels else None,
        categorised=int((labels.of_items >= 0).sum()) if labels else 0,
        categories=categories,
        trees={name: tree_of(items_with_ids(own, items, names)) for name, own in by_modality.items()},
        collided=collided_of(quantised, items),
        lent=ids.height - quantised.height,
    )
