"""Compose params.yaml from conf/, as `dvc exp run` does; `python -m tessera.compose` writes it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tessera.artifacts import whole_file
from tessera.errors import ParamsError
from tessera.params import PARAMS_FILE


def composed(conf: Path, overrides: Sequence[str] = ()) -> str:
    """Return the text of params.yaml for the folder conf with overrides such as `system=tiger` and `quant.lr=0.01`.

    Raises ParamsError where an override names no group or key.
    """
    config = _config(conf, overrides)
    with _named(conf, overrides):
        OmegaConf.resolve(config)
        return OmegaConf.to_yaml(config)


def composed_by_seed(conf: Path, overrides: Sequence[str], *, seeds: int) -> list[object]:
    """Return what the text that composed gives holds, for each seed from 0 to seeds - 1, what follows it included.

    Composing takes most of the time, and is done once.
    """
    config = _config(conf, overrides)
    with _named(conf, overrides):
        return [OmegaConf.to_container(OmegaConf.merge(config, {"seed": seed}), resolve=True) for seed in range(seeds)]


def _config(conf: Path, overrides: Sequence[str]) -> DictConfig:
    with _named(conf, overrides), initialize_config_dir(str(conf.absolute()), version_base=None):
        return compose("config.yaml", overrides=list(overrides))


@contextmanager
def _named(conf: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Raise ParamsError, naming the overrides, where what is composed in the block cannot be."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ParamsError(f"{conf}: cannot be composed with {list(overrides)}: {error}") from error


if __name__ == "__main__":
    with whole_file(PARAMS_FILE) as partial:
        partial.write_text(composed(Path("conf")))
