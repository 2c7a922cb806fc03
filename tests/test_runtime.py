import logging
import os
from typing import Annotated
from unittest.mock import Mock

import pytest
import typer

from tessera.errors import DataError, ParamsError
from tessera.runtime import accelerator_on, log, run, torch_device


def main(items: Annotated[int, typer.Option(help="How many.")]) -> None:
    if items == 0:
        raise DataError("[items]: expected some, found 0")
    if items < 0:
        raise ValueError("a fault of the programme")
    typer.echo(f"{items} items")


commands = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
commands.command("main")(main)
commands.command("other")(lambda: typer.echo("other"))


@pytest.fixture(params=["a function", "commands"])
def call(request, monkeypatch):
    """Run the command line and return its exit status."""
    is_function = request.param == "a function"

    def with_arguments(*arguments):
        monkeypatch.setattr("sys.argv", ["stage", *([] if is_function else ["main"]), *arguments])
        with pytest.raises(SystemExit) as exited:
            run(main if is_function else commands)
        return exited.value.code

    return with_arguments


def test_what_goes_well(call, capsys):
    assert not call("--items", "3")
    assert capsys.readouterr().out == "3 items\n"


def test_what_goes_wrong_on_purpose_is_one_message_as_it_stands(call, capsys):
    assert call("--items", "0") == 1
    printed = capsys.readouterr()
    assert printed.err.strip() == "error: [items]: expected some, found 0"
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "named"), [([], "--items"), (["--items", "many"], "--items"), (["--itmes", "3"], "--itmes")]
)
def test_a_command_line_that_does_not_fit_is_explained(call, capsys, arguments, named):
    assert call(*arguments) == 2
    printed = capsys.readouterr().err
    assert named in printed
    assert "Traceback" not in printed


def chatty(items: Annotated[int, typer.Option(help="How many.")]) -> None:
    log.debug("%d items", items)


@pytest.mark.parametrize("told", [["-v"], ["--verbose"], "1", []])
def test_verbose_tells_more(monkeypatch, caplog, told):
    monkeypatch.setenv("TESSERA_VERBOSE", told if isinstance(told, str) else "")
    monkeypatch.setattr("sys.argv", ["stage", "--items", "3", *(told if isinstance(told, list) else [])])
    monkeypatch.setattr(log, "level", logging.NOTSET)
    with pytest.raises(SystemExit):
        run(chatty)
    assert caplog.messages == (["3 items"] if told else [])


def test_a_fault_of_the_programme_is_not_hidden(monkeypatch):
    monkeypatch.setattr("sys.argv", ["stage", "--items", "-1"])
    with pytest.raises(ValueError, match="a fault of the programme"):
        run(main)


@pytest.mark.parametrize(
    ("name", "found"), [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")]
)
def test_each_process_has_a_gpu_of_its_own(monkeypatch, name, found):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert str(torch_device(name)) == found


@pytest.mark.parametrize("told", [None, "max_split_size_mb:64"])
def test_a_gpus_memory_can_grow_unless_somebody_says_otherwise(monkeypatch, told):
    """It is told before the GPU is first used, which for want of one is where this ends."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.set_device", Mock(side_effect=RuntimeError("first used")))
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    if told:
        monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", told)
    with pytest.raises(RuntimeError, match="first used"):
        accelerator_on("cuda", precision="fp32")
    assert os.environ.pop("PYTORCH_CUDA_ALLOC_CONF") == (told or "expandable_segments:True")


@pytest.mark.parametrize(("name", "message"), [("gpu", "found 'gpu'"), ("cuda", "and no GPU is here")])
def test_a_device_that_is_not_here_is_named(monkeypatch, name, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ParamsError, match=f"device: expected .*{message}"):
        torch_device(name)
