"""Learn a picture encoder and the codes of pictures together, by self-distillation, or nothing for another encoder."""

from functools import partial
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from tessera.artifacts import read_table, whole_folder, write_json, write_table, write_tsv
from tessera.params import PARAMS_FILE, load_params
from tessera.places import found_at_home
from tessera.row_files import picture_rows
from tessera.runtime import progress, run, torch_device
from tessera.schemas import CODEBOOKS, ITEMS


def main(
    items: Annotated[Path, typer.Option(help="The items that remain.")],
    images: Annotated[Path, typer.Option(help="Their pictures.")],
    backbone: Annotated[Path, typer.Option(help="Where the encoder goes: a folder with weights and config.json.")],
    codebooks: Annotated[Path, typer.Option(help="Where the codebooks of pictures go.")],
    history: Annotated[Path, typer.Option(help="Where each epoch's losses and used codes go, as TSV.")],
    metrics: Annotated[Path, typer.Option(help="Where the first and last losses and the use of codes go.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = PARAMS_FILE,
) -> None:
    params = load_params(params_file)
    distill = params.distill
    if params.image.encoder != "rq_dino" or "image" not in params.modalities:
        write_nothing(backbone, codebooks, history, metrics)
        return
    import torch

    from tessera.items.backbones import Shape, new_backbone, save_backbone
    from tessera.items.distillation import Codes, Schedule, codebook_table, fit, picture_codes
    from tessera.items.image_encoders import squared_pictures
    from tessera.items.impairing import remaining
    from tessera.items.views import Cuts
    from tessera.usage import levels

    keys = read_table(items, ITEMS)["key"]
    keys = keys.filter(remaining(keys, missing=params.image.missing, seed=params.image.seed, modality="image"))
    checkpoint = distill.checkpoint and found_at_home(distill.checkpoint, watch=distill.watch, key="distill.watch")
    with torch.random.fork_rng():
        torch.manual_seed(params.seed)
        sides = {"distill.size": distill.size, "distill.local_size": distill.local_size}
        shape = Shape(**distill.model_dump(include=set(Shape._fields)))
        fresh = new_backbone(shape, checkpoint=checkpoint, sides=sides)
    blocks = squared_pictures(images, keys, side=distill.size, batch_size=distill.batch_size)
    with picture_rows(blocks, side=distill.size, scratch=backbone.parent) as pictures:
        fitted = fit(
            fresh,
            pictures,
            cuts=Cuts(**distill.model_dump(include=set(Cuts._fields))),
            codes=Codes(
                levels=params.quant.levels,
                codebook_size=params.quant.codebook_size,
                alpha=params.quant.alpha,
                replace_dead_after=params.quant.replace_dead_after,
            ),
            schedule=Schedule(**distill.model_dump(include=set(Schedule.__dataclass_fields__))),
            seed=params.seed,
            device=torch_device(params.device),
            progress=partial(progress, title="epochs"),
        )
        usage = levels(picture_codes(fitted, pictures).numpy())
        counts = {"pictures": pictures.shape[0]}
    with whole_folder(backbone) as folder:
        save_backbone(fitted.backbone, folder)
    write_table(codebooks, codebook_table(fitted.codebooks), CODEBOOKS)
    write_tsv(history, fitted.history)
    losses = {f"{when}_{name}": fitted.history[name][row] for name in ("loss", "dino", "rq") for when, row in ENDS}
    write_json(metrics, counts | losses | {"levels": {str(n): level._asdict() for n, level in enumerate(usage)}})


#: The epochs whose losses are metrics: by name, and their rows in the history.
ENDS = (("first", 0), ("last", -1))


def write_nothing(backbone: Path, codebooks: Path, history: Path, metrics: Path) -> None:
    """Write what stands for a backbone and its codes where another encoder embeds the pictures."""
    with whole_folder(backbone) as folder:
        write_json(folder / "config.json", {"backbone": "none"})
    write_table(codebooks, pl.DataFrame(schema=CODEBOOKS), CODEBOOKS)
    write_tsv(history, pl.DataFrame(schema=["epoch"]))
    write_json(metrics, {"pictures": 0})


if __name__ == "__main__":
    run(main)
