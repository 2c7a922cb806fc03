"""What is saved comes back as it was, and what does not belong together is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera.codes.checkpoint import CONFIG, WEIGHTS, load, save
from tessera.codes.encoding import encode
from tessera.codes.fitting import fit
from tessera.errors import CheckpointError

CPU = torch.device("cpu")


@pytest.fixture(params=["rqvae", "rkmeans"])
def trained(request, shop, objective, schedule):
    given = shop()
    return given, fit(
        given.vectors,
        given.labels,
        architecture=given.architecture(method=request.param),
        objective=objective(),
        schedule=schedule(epochs=2),
        generator=torch.Generator(),
        device=CPU,
    ).quantizer


def test_codes_are_the_same_after_saving_and_loading(trained, tmp_path):
    given, quantizer = trained
    save(quantizer, tmp_path)
    loaded = load(tmp_path, codebook_size=8)
    assert loaded.architecture == quantizer.architecture
    for modality, vectors in given.vectors.items():
        before = encode(quantizer, modality, vectors, device=CPU)
        after = encode(loaded, modality, vectors, device=CPU)
        for one, other in zip(before, after, strict=True):
            assert (one == other).all()


def test_saving_twice_writes_the_same_bytes(trained, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save(trained[1], tmp_path / name)
    for file in (WEIGHTS, CONFIG):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_weights_are_named_after_their_modality(trained, tmp_path):
    save(trained[1], tmp_path)
    names = load_file(tmp_path / WEIGHTS).keys()
    assert {"text.codebooks", "image.codebooks", "text.centre", "image.scale"} <= names


def edit_config(folder, **changes):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def edit_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / CONFIG).unlink(), r"config.json: cannot be read"),
        (lambda f: (f / CONFIG).write_text("{"), r"config.json: cannot be read"),
        (lambda f: (f / CONFIG).write_text("[]"), r"config.json: expected the method, widths"),
        (lambda f: edit_config(f, extra=1), r"config.json: expected the method, widths"),
        (lambda f: edit_config(f, levels="3"), r"config.json: expected the method, widths"),
        (lambda f: edit_config(f, widths={}), r"config.json: expected the method, widths"),
        (lambda f: edit_config(f, projection=1), r"config.json: expected the method, widths"),
        (lambda f: edit_config(f, method="vq"), r"config.json: expected the method, widths"),
        (lambda f: edit_config(f, codebook_size=9), r"expected codebook_size 8, as quant.codebook_size says, found 9"),
        (
            lambda f: edit_config(f, levels=2),
            r"codebooks: expected shape \(2, 8, \d+\), .* found shape \(3, 8",
        ),
        (lambda f: edit_config(f, widths={"text": 10}), r"image.centre: expected nothing, .* found shape \(11,\)"),
        (lambda f: (f / WEIGHTS).unlink(), r"weights.safetensors: cannot be read"),
        (lambda f: (f / WEIGHTS).write_bytes(b"no"), r"weights.safetensors: cannot be read"),
        (lambda f: edit_weights(f, lambda w: w.pop("text.centre")), r"text.centre: expected shape \(10,\), .* nothing"),
        (
            lambda f: edit_weights(f, lambda w: w["text.centre"].fill_(torch.nan)),
            r"text.centre: expected finite",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(trained, tmp_path, spoil, message):
    save(trained[1], tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, codebook_size=8)
