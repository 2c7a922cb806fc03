"""Compose params.yaml from conf/, as `dvc exp run` does; `python -m tessera.compose` writes it."""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from tessera.artifacts import whole_file
from tessera.errors import ParamsError
from tessera.params import PARAMS_FILE


def composed(conf: Path, overrides: Sequence[str] = ()) -> str:
    """Return the text of params.yaml for the folder conf with overrides such as `system=tiger` and `quant.lr=0.01`.

    Raises ParamsError where an override names no group or key.
    """
    try:
        with initialize_config_dir(str(conf.absolute()), version_base=None):
            config = compose("config.yaml", overrides=list(overrides))
    except HydraException as error:
        raise ParamsError(f"{conf}: cannot be composed with {list(overrides)}: {error}") from error
    OmegaConf.resolve(config)
    return OmegaConf.to_yaml(config)


if __name__ == "__main__":
    with whole_file(PARAMS_FILE) as partial:
        partial.write_text(composed(Path("conf")))
