"""Give new items IDs under the quantizer of a run: nobody's ID changes, and they can be recommended at once.

A new item is embedded by what the run's encoders have learned, quantised by its quantizer, and moved where another item
has its codes. What it lacks it borrows, as in the run: the path of the item that is most like it in another modality.
All tokens are there already, so the T5 reads and writes the new IDs; it was not trained on them.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tessera.artifacts import read_table
from tessera.codes.collisions import Paths, resolve
from tessera.codes.encoding import quantised_paths
from tessera.codes.rows import Fused, Rows
from tessera.codes.tables import id_table
from tessera.codes.uniform import Sinkhorn
from tessera.encoders.image import embed_pictures
from tessera.encoders.text import embed_texts
from tessera.errors import DataError, ParamsError
from tessera.items.catalogue import PRESENCE, described
from tessera.items.fitted import load_fitted
from tessera.items.folder import read_item_file
from tessera.items.picture_parts import fetch_parts, merge, wanted_pictures
from tessera.items.pictures import Limits
from tessera.items.vectors import Vectors, vector_tables
from tessera.items.web import Patience
from tessera.params import Params, Text
from tessera.runtime import torch_device
from tessera.schemas import CODEBOOKS, IMAGES, ITEMS, JOINT
from tessera.using.shop import Shop

#: Encoders that learn something of a catalogue.
LEARNING = ("tfidf", "descriptors")


class Additions(NamedTuple):
    """New items, numbered on from those of a shop."""

    items: pl.DataFrame  # ITEMS
    ids: pl.DataFrame  # IDS
    vectors: dict[str, pl.DataFrame]  # modality -> VECTORS
    known: list[str]  # keys that the shop has already; their items stay as they are
    without_picture: dict[str, list[str]]  # by what became of a picture that was named, the keys of its items
    rows: int  # of the file
    malformed: dict[str, int]  # by what was wrong with it, the rows that are no items
    repeated: int  # rows of an item that an earlier row tells of


class NewItems(NamedTuple):
    """What is told of new items: their rows as in ITEMS, and a table of their pictures."""

    items: pl.DataFrame
    images: Path
    without_picture: dict[str, list[str]]


def add_items(shop: Shop, file: Path, *, precomputed: Mapping[str, Path]) -> Additions:
    """Return the items of file, in the format of one's own items.jsonl, .csv or .parquet, with IDs and vectors.

    precomputed maps a modality whose encoder is `precomputed` to a file of the new items' vectors.

    Raises ParamsError where a needed file of vectors is not given, or one that is not needed, DataError where the model
    has no quantizer, no item is new, or one has nothing that it could be embedded by.
    """
    _require_quantizer(shop.params)
    if surplus := sorted(set(precomputed) - set(shop.params.modalities)):
        raise ParamsError(f"--vectors: expected {', '.join(shop.params.modalities)}, found {', '.join(surplus)}")
    for modality in precomputed:
        if (encoder := getattr(shop.params, modality).encoder) != "precomputed":
            raise ParamsError(f"--vectors: expected none for {modality}, whose encoder is {encoder}, found some")
    raw, counts = read_item_file(file, reviewed=None, max_malformed=shop.params.dataset.max_malformed)
    known = raw.join(shop.items, on="key", how="semi")["key"].to_list()
    new = raw.join(shop.items, on="key", how="anti", maintain_order="left")
    if new.is_empty():
        raise DataError(f"{file}: expected items that are not there yet, found {len(known)} that are")
    with TemporaryDirectory() as folder:
        told = _described(new, shop, root=file.parent, images=Path(folder) / "images.parquet")
        found = {name: _embedded(name, told, shop, precomputed=precomputed) for name in shop.params.modalities}
    _require_something(told.items, found)
    vectors = {name: _table(told.items["item"], each, shop, modality=name) for name, each in found.items()}
    return Additions(
        items=told.items,
        ids=_ids(shop, told.items, vectors),
        vectors=vectors,
        known=known,
        without_picture=told.without_picture,
        rows=counts["lines"],
        malformed=counts["malformed"],
        repeated=counts["repeated"],
    )


def _require_quantizer(params: Params) -> None:
    if not params.modalities:
        raise DataError("modalities: expected one that items have IDs in, found none: new items cannot be told of")
    if params.ids.source == "file":
        raise DataError("ids.source: expected computed, found file: there is no quantizer to give new items IDs")


def _described(raw: pl.DataFrame, shop: Shop, *, root: Path, images: Path) -> NewItems:
    """Return raw items as ITEMS, numbered on from those of shop, and fetch their pictures into the table at images."""
    params = shop.params
    wanted = wanted_pictures(raw["key"], items=raw)
    parts = fetch_parts(
        wanted if "image" in params.modalities else wanted.clear(),
        parts=images.parent / "parts",
        files={},
        root=root,
        limits=Limits(**params.images.model_dump(include=set(Limits._fields))),
        patience=Patience(timeout=params.images.timeout, retries=params.images.retries),
        workers=params.images.workers,
    )
    merge(parts, into=images)
    statuses = read_table(images, IMAGES, columns=["key", "status"])
    lost = (
        statuses.filter(~pl.col("status").is_in(["ok", "missing"])).group_by("status", maintain_order=True).agg("key")
    )
    told = described(raw["key"], items=raw, statuses=statuses).with_row_index("item", offset=shop.items.height)
    told = told.with_columns(interactions=pl.lit(0, pl.UInt32))
    items = told.select(pl.col(name).cast(dtype) for name, dtype in ITEMS.items())
    return NewItems(items, images, dict(lost.iter_rows()))


def _embedded(modality: str, new: NewItems, shop: Shop, *, precomputed: Mapping[str, Path]) -> Vectors:
    """Return what the run's encoder makes of new items; all are absent in a modality that needs interactions."""
    nothing = Vectors(np.zeros((new.items.height, 0), np.float32), np.zeros(new.items.height, np.bool_))
    section = shop.params.text if modality == "text" else shop.params.image if modality == "image" else None
    if section is None:
        return nothing
    if section.encoder == "precomputed":
        if modality not in precomputed:
            raise ParamsError(f"{modality}.encoder is precomputed: expected --vectors {modality}=FILE, found none")
        section = section.model_copy(update={"path": str(precomputed[modality].absolute())})
    elif not new.items.select(PRESENCE[modality].any()).item():
        return nothing
    known = None
    if section.encoder in LEARNING:
        known = load_fitted(shop.parts[f"{modality}_encoder"], kind=section.encoder)
    if isinstance(section, Text):
        return embed_texts(new.items, section, device=shop.params.device, known=known).vectors
    backbone, device = shop.parts["backbone"], shop.params.device
    return embed_pictures(new.images, new.items["key"], section, backbone=backbone, device=device, known=known).vectors


def _require_something(items: pl.DataFrame, found: Mapping[str, Vectors]) -> None:
    lost = items.filter(~np.logical_or.reduce([vectors.present for vectors in found.values()]))["key"].to_list()
    if lost:
        raise DataError(
            f"{lost[0]}: expected something to embed it by ({', '.join(found)}), found nothing"
            + (f"; nor of {len(lost) - 1} others" if len(lost) > 1 else "")
        )


def _table(numbers: pl.Series, found: Vectors, shop: Shop, *, modality: str) -> pl.DataFrame:
    """Return vectors of new items as a table like that of shop, whose mean stands for those that are absent."""
    width = shop.vector_width(modality)
    if found.present.any() and found.vectors.shape[1] != width:
        raise DataError(f"new items: expected vectors of width {width}, found {found.vectors.shape[1]}")
    filled = np.zeros((len(numbers), width), np.float32)
    if not found.present.all():
        before = shop.vectors(modality).filter("present")["vector"].to_numpy()
        filled[:] = np.mean(before, axis=0, dtype=np.float64).astype(np.float32)
    if found.present.any():
        filled[found.present] = found.vectors[found.present]
    return pl.concat(vector_tables(numbers, Vectors(filled, found.present)))


def _ids(shop: Shop, new: pl.DataFrame, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the IDs of the items new, whose vectors are in tables.

    The other items' vectors are read where they lend to a new one that lacks any, or say how modalities compare.
    """
    params, count = shop.params, new.height
    are_whole = all(table["present"].all() for table in tables.values())
    if not are_whole or params.ids.layout == "fused":
        tables = {name: pl.concat([shop.vectors(name), table]) for name, table in tables.items()}
    rows = {name: torch.from_numpy(table["vector"].to_numpy(writable=True)) for name, table in tables.items()}
    there = {name: table["present"].to_numpy(writable=True) for name, table in tables.items()}
    quantised = slice(-count, None) if are_whole else slice(None)
    vectors: Mapping[str, Rows] = {name: table[quantised] for name, table in rows.items()}
    if params.ids.layout == "fused":
        vectors, there = _fused(rows, there, trained=shop.trained, quantised=quantised)
    paths = quantised_paths(
        shop.parts["quantizer"],
        {"image": read_table(shop.parts["codebooks"], CODEBOOKS)},
        vectors,
        {name: present[quantised] for name, present in there.items()},
        codebook_size=params.quant.codebook_size,
        device=torch_device(params.device),
    )
    names = [*shop.items["key"], *new["key"]]
    found = []
    for name, path in paths.items():
        own = Paths(path.codes[-count:], path.residuals[-count:], path.codebooks)
        codes = _free_codes(shop, name, own, present=there[name][-count:], names=names)
        shop.words.tokens(name, codes)  # raises where there is no token for a code
        found.append(id_table(new["item"], name, codes=codes, first=own.codes))
    return pl.concat(found)


def _fused(
    rows: Mapping[str, Tensor], there: Mapping[str, np.ndarray], *, trained: int, quantised: slice
) -> tuple[dict[str, Rows], dict[str, np.ndarray]]:
    """Return the vectors to be quantised as one each, made comparable by those that the quantizer was trained on."""
    counted = {name: torch.from_numpy(present & (np.arange(len(present)) < trained)) for name, present in there.items()}
    together = Fused(rows, counted)[quantised]
    return {JOINT: together}, {JOINT: np.logical_or.reduce(list(there.values()))}


def _free_codes(shop: Shop, name: str, new: Paths, *, present: np.ndarray, names: list[str]) -> np.ndarray:
    """Return codes for new items that nobody has, next to what their paths say; those not present (A,) give way."""
    params = shop.params
    levels = new.codes.shape[1]
    taken = shop.ids.filter(modality=name).sort("item")["codes"].list.head(levels).list.to_array(levels)
    old = taken.to_numpy().astype(np.int64)
    everyone = Paths(
        np.concatenate([old, new.codes]),
        np.concatenate([np.zeros((len(old), new.residuals.shape[1]), np.float32), new.residuals]),
        new.codebooks,
    )
    sinkhorn = Sinkhorn(params.quant.sinkhorn_epsilon, params.quant.sinkhorn_iterations)
    rule = params.ids.collisions
    here = np.append(np.ones(len(old), np.bool_), present)
    codes = resolve(everyone, rule=rule, names=names, present=here, sinkhorn=sinkhorn, fixed=len(old))
    return codes[len(old) :]
