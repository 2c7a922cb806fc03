"""The cross-modal residual quantizer: what turns the vectors of an item into one short code sequence a modality.

MACRec (arXiv 2511.15122, section "Cross-modal residual quantisation"); the residual quantisation itself is that of
RQ-VAE as TIGER uses it (arXiv 2305.05065, section 3.1). Residual k-means is the same object without a network: its
encoder and decoder are the identity and its codes have the width of the vectors.

Gradients: the codebooks learn from L_rq and L_Div alone. The code that a residual loses is detached, so that L_con
reaches the encoder through every residual; L_recon, L_align and L_CF reach it straight through the summed codes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from tessera.errors import CheckpointError
from tessera.kmeans import nearest
from tessera.products import Linear
from tessera.residual import Assignment, Steps, quantise, summed

Method = Literal["rqvae", "rkmeans"]


@dataclass(frozen=True)
class Architecture:
    """What has to be known to build a quantizer before its weights are there.

    `widths` maps each modality to the width D of its vectors. What comes after `codebook_size` means nothing to
    `rkmeans`. With `projection` the first of the `hidden` layers is linear: there is no ReLU after it, nor before its
    mirror in the decoder.
    """

    method: Method
    widths: dict[str, int]
    levels: int
    codebook_size: int
    latent_dim: int
    hidden: tuple[int, ...]
    projection: bool


class Quantized(NamedTuple):
    """What became of a batch of vectors of one modality."""

    codes: Tensor  # (B, L) int64
    residuals: Tensor  # (L, B, d): what each level had to quantise
    code_vectors: Tensor  # (L, B, d): what each level chose for it
    summed: Tensor  # (B, d): the sum of the code vectors; its gradient goes straight through to the encoder
    scaled: Tensor  # (B, D): the vectors as the encoder saw them
    reconstruction: Tensor  # (B, D)


class ModalityQuantizer(nn.Module):
    """Encoder, codebooks (L, M, d) and decoder of one modality.

    Vectors come in as they are: `centre` (D,) and `scale` () belong to the weights, and make them of zero mean and
    of unit mean square per feature. One scale for all features keeps the geometry that the codes are to tell of.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, width: int, architecture: Architecture) -> None:
        super().__init__()
        is_network = architecture.method == "rqvae"
        #: Of the vectors, the layers and the codes; the decoder mirrors them.
        self.widths = (width, *architecture.hidden, architecture.latent_dim) if is_network else (width,)
        self.encoder: nn.Module = nn.Identity()
        self.decoder: nn.Module = nn.Identity()
        if is_network:
            bent = [place > 0 or not architecture.projection for place in range(len(architecture.hidden))]
            self.encoder = _perceptron(self.widths, bent)
            self.decoder = _perceptron(self.widths[::-1], bent[::-1])
        self.codebooks = nn.Parameter(torch.zeros(architecture.levels, architecture.codebook_size, self.widths[-1]))
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def scaled(self, vectors: Tensor) -> Tensor:
        """Return vectors (B, D) as the encoder sees them."""
        return (vectors - self.centre).div_(self.scale)

    def latents(self, vectors: Tensor) -> Tensor:
        """Return the encoder's output (B, d) for vectors (B, D)."""
        latents: Tensor = self.encoder(self.scaled(vectors))
        return latents

    def forward(self, vectors: Tensor, *, last: Assignment = nearest) -> Quantized:
        """Quantise vectors (B, D), at the last level by the given assignment, and reconstruct them from their codes."""
        scaled = self.scaled(vectors)
        latents = self.encoder(scaled)  # (B, D) -> (B, d)
        steps = self.quantise(latents, last=last)
        through = summed(latents, steps.code_vectors)
        return Quantized(*steps, through, scaled, self.decoder(through))

    def quantise(self, latents: Tensor, *, last: Assignment = nearest) -> Steps:
        """Return the codes (B, L), residuals (L, B, d) and code vectors (L, B, d) of latents (B, d)."""
        return quantise(latents, self.codebooks, last=last)


class CrossModalQuantizer(nn.Module):
    """One quantizer a modality, in the order of the architecture's widths; they meet only in the losses."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        # A list, since a ModuleDict refuses the names of its own methods: `items` may well be a modality.
        self.parts = nn.ModuleList(ModalityQuantizer(width, architecture) for width in architecture.widths.values())

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities, in order."""
        return tuple(self.architecture.widths)

    def of(self, modality: str) -> ModalityQuantizer:
        """Return the quantizer of one modality; raise CheckpointError where there is none."""
        if modality not in self.architecture.widths:
            raise CheckpointError(f"quantizer: expected modality {modality}, found {', '.join(self.modalities)}")
        part = self.parts[self.modalities.index(modality)]
        assert isinstance(part, ModalityQuantizer)  # noqa: S101 - for the type checker
        return part

    def forward(self, vectors: Mapping[str, Tensor], *, last: Assignment = nearest) -> dict[str, Quantized]:
        """Quantise vectors (B, D) of every modality."""
        return {modality: self.of(modality)(vectors[modality], last=last) for modality in self.modalities}


def initialise_layers(quantizer: CrossModalQuantizer, *, generator: torch.Generator) -> None:
    """Give every linear layer Xavier-normal weights (the released code's choice) and zero biases."""
    for module in quantizer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)


def with_codebooks(modality: str, codebooks: Tensor) -> CrossModalQuantizer:
    """Return the quantizer of a modality whose codebooks (L, M, D) are given: no network, and nothing scaled."""
    levels, size, width = codebooks.shape
    architecture = Architecture(
        "rkmeans", {modality: width}, levels, size, latent_dim=width, hidden=(), projection=False
    )
    quantizer = CrossModalQuantizer(architecture)
    with torch.no_grad():
        quantizer.of(modality).codebooks.copy_(codebooks)
    return quantizer.eval()


class _Blank(Linear):
    """A linear layer whose weights are not yet set; `nn.utils.skip_init` would import torch's compiler for one."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


def _perceptron(widths: tuple[int, ...], bent: Sequence[bool]) -> nn.Sequential:
    """Return linear layers of the given widths, their weights not yet set, a ReLU between two where bent says so."""
    linear = [_Blank(inner, outer) for inner, outer in pairwise(widths)]
    between = [nn.ReLU(inplace=True) if each else nn.Identity() for each in bent]
    return nn.Sequential(*chain.from_iterable(zip(linear, between, strict=False)), linear[-1])
