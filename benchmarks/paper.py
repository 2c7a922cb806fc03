"""The published settings: those of `scale=paper` and `system=macrec`, as conf/ has them."""

from pathlib import Path

from ruamel.yaml import YAML

from tessera.compose import composed
from tessera.params import Params

CONF = Path(__file__).parents[1] / "conf"

PAPER = Params.model_validate(
    YAML(typ="safe", pure=True).load(composed(CONF, ["scale=paper", "system=macrec"])),
)
