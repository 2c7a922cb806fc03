from pathlib import Path

import pytest

from tessera.places import at_home, is_watched


@pytest.mark.parametrize("copy", ["tmpab12", "standalone/tmpab12"])
def test_in_a_copy_for_an_experiment_relative_paths_are_the_repositorys(copy, tmp_path, monkeypatch):
    working = tmp_path / "shop" / ".dvc" / "tmp" / "exps" / copy
    working.mkdir(parents=True)
    monkeypatch.chdir(working)
    assert at_home(Path("downloads")) == tmp_path / "shop" / "downloads"
    assert at_home(Path("../shared")).resolve() == tmp_path / "shared"
    assert at_home(Path("/elsewhere")) == Path("/elsewhere")


@pytest.mark.parametrize("working", ["shop", ".dvc/tmp/exps", "dvc/tmp/exps/copy"])
def test_elsewhere_they_are_the_working_directorys(working, tmp_path, monkeypatch):
    (tmp_path / working).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / working)
    assert at_home(Path("downloads")) == Path("downloads")


@pytest.mark.parametrize(
    ("source", "watch", "covered"),
    [
        ("data/x.gz", "data/x.gz", True),
        ("data/x.gz", "data", True),
        ("data/../data/x.gz", "./data", True),
        ("data/x.gz", "conf/unset", False),
        ("database/x.gz", "data", False),
    ],
)
def test_a_source_is_watched_as_itself_or_in_its_folder(source, watch, covered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_watched(Path(source), watch=Path(watch)) is covered
    assert is_watched(tmp_path / source, watch=Path(watch)) is covered
