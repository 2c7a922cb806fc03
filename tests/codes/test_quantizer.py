"""Residual quantisation: what each level is given, what it chooses, and where gradients go."""

import numpy as np
import pytest
import torch

from tessera.codes.losses import quantization_loss, reconstruction_loss
from tessera.codes.quantizer import (
    Architecture,
    CrossModalQuantizer,
    ModalityQuantizer,
    initialise_layers,
)
from tessera.codes.rows import rows_in_block
from tessera.errors import CheckpointError


def architecture(**changes):
    known = {"method": "rqvae", "widths": {"text": 6}, "levels": 2, "codebook_size": 4, "latent_dim": 3, "hidden": (5,)}
    return Architecture(**{**known, "projection": False, **changes})


def quantizer_with_random_codes(seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    quantizer = CrossModalQuantizer(architecture(**changes))
    initialise_layers(quantizer, generator=generator)
    for part in quantizer.parts:
        torch.nn.init.normal_(part.codebooks, generator=generator)
    return quantizer


def test_two_levels_by_hand():
    part = ModalityQuantizer(1, architecture(method="rkmeans", codebook_size=2))
    part.codebooks.data = torch.tensor([[[0.0], [10.0]], [[-1.0], [2.0]]])
    result = part(torch.tensor([[9.5], [2.5]]))
    # 9.5 -> code 1 (10), leaves -0.5 -> code 0 (-1); 2.5 -> code 0 (0), leaves 2.5 -> code 1 (2).
    assert result.codes.tolist() == [[1, 0], [0, 1]]
    assert result.residuals.squeeze(-1).tolist() == [[9.5, 2.5], [-0.5, 2.5]]
    assert result.code_vectors.squeeze(-1).tolist() == [[10.0, 0.0], [-1.0, 2.0]]
    assert result.summed.squeeze(-1).tolist() == [9.0, 2.0]
    assert result.reconstruction.squeeze(-1).tolist() == [9.0, 2.0]


def test_quantisation_equals_a_loop_over_items():
    part = quantizer_with_random_codes(levels=3).of("text")
    latents = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    codes, residuals, vectors = part.quantise(latents)
    for item, latent in enumerate(latents):
        left = latent.clone()
        for level, codebook in enumerate(part.codebooks.detach()):
            torch.testing.assert_close(residuals[level, item], left)
            code = int(np.argmin([float((left - place).square().sum()) for place in codebook]))
            assert codes[item, level] == code
            torch.testing.assert_close(vectors[level, item], codebook[code])
            left = left - codebook[code]


def test_widths_of_network_and_codes():
    part = CrossModalQuantizer(architecture(hidden=(9, 5))).of("text")
    shapes = [tuple(layer.weight.shape) for layer in part.encoder if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(9, 6), (5, 9), (3, 5)]
    assert [tuple(x.weight.shape) for x in part.decoder if isinstance(x, torch.nn.Linear)] == [(5, 3), (9, 5), (6, 9)]
    assert isinstance(part.encoder[-1], torch.nn.Linear)
    assert part.codebooks.shape == (2, 4, 3)


@pytest.mark.parametrize("projection", [False, True])
def test_a_projection_is_linear_and_the_decoder_mirrors_it(projection):
    part = CrossModalQuantizer(architecture(hidden=(9, 5), projection=projection)).of("text")
    bends = [[isinstance(layer, torch.nn.ReLU) for layer in half][1::2] for half in (part.encoder, part.decoder)]
    assert bends == [[not projection, True], [True, not projection]]
    assert all(isinstance(layer, torch.nn.Linear) for half in (part.encoder, part.decoder) for layer in half[::2])


def test_residual_kmeans_has_codes_of_the_vectors_width_and_no_network():
    part = CrossModalQuantizer(architecture(method="rkmeans")).of("text")
    assert part.codebooks.shape == (2, 4, 6)
    assert {name for name, _ in part.named_parameters()} == {"codebooks"}


def test_scaling_is_undone_by_nothing_and_done_first():
    part = ModalityQuantizer(2, architecture(method="rkmeans"))
    part.centre.copy_(torch.tensor([1.0, 2.0]))
    part.scale.copy_(torch.tensor(2.0))
    assert part.scaled(torch.tensor([[3.0, 2.0]])).tolist() == [[1.0, 0.0]]


def gradients(loss_of):
    quantizer = quantizer_with_random_codes()
    vectors = torch.randn(8, 6, generator=torch.Generator().manual_seed(3))
    loss_of(quantizer({"text": vectors})["text"]).backward()
    part = quantizer.of("text")

    def moved(parameter):
        return parameter.grad is not None and bool((parameter.grad != 0).any())

    return moved(part.codebooks), moved(part.encoder[0].weight), moved(part.decoder[0].weight)


def test_where_gradients_go():
    assert gradients(lambda q: reconstruction_loss(q.scaled, q.reconstruction)) == (False, True, True)
    assert gradients(lambda q: quantization_loss(q.residuals, q.code_vectors, alpha=0.0).sum()) == (True, False, False)
    assert gradients(lambda q: quantization_loss(q.residuals, q.code_vectors, alpha=1.0).sum()) == (True, True, False)
    assert gradients(lambda q: q.residuals[-1].square().sum()) == (False, True, False)
    assert gradients(lambda q: q.summed.square().sum()) == (False, True, False)


def test_layers_start_xavier_normal_with_zero_biases_from_the_generator_alone():
    before = torch.random.get_rng_state()
    wide = CrossModalQuantizer(architecture(widths={"text": 300}, hidden=(200,)))
    initialise_layers(wide, generator=torch.Generator().manual_seed(0))
    layer = wide.of("text").encoder[0]
    assert float(layer.weight.detach().std()) == pytest.approx((2 / (300 + 200)) ** 0.5, rel=0.02)
    assert not layer.bias.any()
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("names", [("text",), ("text", "image"), ("items", "keys", "type", "forward")])
def test_any_modalities_by_any_name(names):
    quantizer = CrossModalQuantizer(architecture(widths=dict.fromkeys(names, 6)))
    initialise_layers(quantizer, generator=torch.Generator())
    results = quantizer({name: torch.ones(2, 6) for name in names})
    assert tuple(results) == names == quantizer.modalities
    assert all(result.codes.shape == (2, 2) for result in results.values())


def test_an_unknown_modality_is_named():
    with pytest.raises(CheckpointError, match=r"expected modality sound, found text$"):
        CrossModalQuantizer(architecture()).of("sound")


def test_a_block_has_at_least_one_row():
    assert rows_in_block(2**30) == 1
    assert rows_in_block(2**20) == 16
