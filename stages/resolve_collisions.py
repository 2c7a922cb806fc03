"""Give every item its semantic ID in each modality, and no two items the same one."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import torch
import typer
from numpy.typing import NDArray

from tessera.artifacts import named_paths, read_table, write_json, write_table, write_tsv
from tessera.codes.collisions import resolve
from tessera.codes.encoding import quantised_paths
from tessera.codes.id_file import codes_of, estimated_paths, read_ids
from tessera.codes.statistics import USAGE, summary, usage
from tessera.codes.tables import fused, id_table, rows_of
from tessera.codes.uniform import Sinkhorn
from tessera.errors import DataError
from tessera.params import PARAMS_FILE, load_params, quantised
from tessera.places import at_home
from tessera.row_files import vector_rows
from tessera.runtime import run, torch_device
from tessera.schemas import CODEBOOKS, IDS, ITEMS, VECTORS


def main(
    vectors: Annotated[list[str], typer.Option(help="NAME=PATH of a modality's vectors; once a modality.")],
    quantizer: Annotated[Path, typer.Option(help="The trained quantizer: a folder. Not read if ids.source is file.")],
    codebooks: Annotated[list[str], typer.Option(help="NAME=PATH of a modality's given codebooks; may be empty.")],
    items: Annotated[Path, typer.Option(help="The items.")],
    ids: Annotated[Path, typer.Option(help="To write: the semantic IDs.")],
    code_usage: Annotated[Path, typer.Option(help="To write: the share of items that each code of a level has.")],
    metrics: Annotated[Path, typer.Option(help="To write: collisions and use of codes, before and after.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    if not params.modalities:
        write(ids, code_usage, metrics, tables=[], used=[], measures={})
        return
    shop = read_table(items, ITEMS)
    files = {name: path for name, path in named_paths(vectors).items() if name in params.modalities}
    tables = {name: read_table(path, VECTORS, columns=["item", "present"]) for name, path in files.items()}
    size = params.quant.codebook_size
    sinkhorn = Sinkhorn(params.quant.sinkhorn_epsilon, params.quant.sinkhorn_iterations)

    keys, present = shop["key"].to_list(), dict[str, NDArray[np.bool_]]()
    with vector_rows(files, scratch=ids.parent) as found:
        own = quantised(params.modalities, layout=params.ids.layout)
        names = own if params.ids.source == "file" else params.modalities
        rows = {n: rows_of(shop["item"], tables.get(n), found.get(n), modality=n) for n in names}
        if params.ids.source == "file":
            published = read_ids(at_home(Path(params.ids.path)))
            paths = {n: estimated_paths(codes_of(published, n, keys=keys), m, size=size) for n, m in rows.items()}
        else:
            there = {n: torch.from_numpy(tables[n]["present"].to_numpy(writable=True)) for n in rows}
            if params.ids.layout == "fused":
                rows, there = fused(rows, there)
            given = {name: read_table(path, CODEBOOKS) for name, path in named_paths(codebooks).items()}
            present = {n: mask.numpy() for n, mask in there.items()}
            device = torch_device(params.device)
            paths = quantised_paths(quantizer, given, rows, present, codebook_size=size, device=device)
    codes = {}
    for n, path in paths.items():
        try:
            codes[n] = resolve(path, rule=params.ids.collisions, names=keys, present=present.get(n), sinkhorn=sinkhorn)
        except DataError as error:
            raise DataError(f"IDs of {n}: {error}") from error

    lent = {name: {"items_lent_a_path": int((~there).sum())} for name, there in present.items()}
    write(
        ids,
        code_usage,
        metrics,
        tables=[id_table(shop["item"], n, codes=codes[n], first=path.codes) for n, path in paths.items()],
        used=[usage(codes[n], modality=n, size=size, quantised=p.codes.shape[1]) for n, p in paths.items()],
        measures={n: summary(p.codes, codes[n], present=present.get(n)) | lent.get(n, {}) for n, p in paths.items()},
    )


def write(
    ids: Path,
    code_usage: Path,
    metrics: Path,
    *,
    tables: list[pl.DataFrame],
    used: list[pl.DataFrame],
    measures: dict[str, Any],
) -> None:
    """Write what the modalities have, each list an entry a modality."""
    write_table(ids, pl.concat([pl.DataFrame(schema=IDS), *tables]), IDS)
    write_tsv(code_usage, pl.concat([pl.DataFrame(schema=USAGE), *used]))
    write_json(metrics, measures)


if __name__ == "__main__":
    run(main)
