"""Views of pictures: random crops, mirrored and with other light, of which a network is to tell that they are one.

Multi-crop (DINO, arXiv 2104.14294, section 3.1): two global views that show most of a picture, and local ones that
show little of it. Published there: BYOL's colour jitter, grey pictures, blur and solarisation beside crops and flips.
Here light, contrast and saturation vary, and hue does not: what colour a product has tells it from others. MSCGRec
(arXiv 2602.03713) does not say what its views are.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tessera.items.backbones import channels_first

#: A crop's width over its height, and its reversal.
RATIO = 4 / 3

#: The share of a picture that the smallest local view shows.
LEAST = 0.05

#: Grey of red, green and blue (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


class Cuts(NamedTuple):
    """How views are cut, named as in params.yaml."""

    size: int  # the side of a global view
    local_size: int  # the side of a local view
    local_views: int
    scale: float  # global views show this share of a picture or more, local views less
    jitter: float  # light, contrast and saturation are multiplied by 1 - jitter to 1 + jitter


class Views(NamedTuple):
    """Views of B pictures: all first views, then all second ones, and so on."""

    large: Tensor  # (2 * B, 3, size, size)
    small: Tensor  # (local_views * B, 3, local_size, local_size)


def views(pictures: Tensor, *, cuts: Cuts, generator: torch.Generator) -> Views:
    """Return views of pictures (B, S, S, 3) of bytes. `generator` belongs to the CPU, wherever the pictures are."""
    floats = channels_first(pictures)
    large = [_view(floats, cuts.size, (cuts.scale, 1.0), cuts.jitter, generator) for _ in range(2)]
    few = (min(LEAST, cuts.scale), cuts.scale)
    small = [_view(floats, cuts.local_size, few, cuts.jitter, generator) for _ in range(cuts.local_views)]
    nothing = floats.new_empty(0, 3, cuts.local_size, cuts.local_size)
    return Views(torch.cat(large), torch.cat([nothing, *small]))


def _view(pictures: Tensor, side: int, share: tuple[float, float], jitter: float, generator: torch.Generator) -> Tensor:
    """Return one view (B, 3, side, side) of each of pictures (B, 3, S, S)."""
    theta = _crops(len(pictures), share, generator=generator).to(pictures.device)
    grid = functional.affine_grid(theta, [len(pictures), 3, side, side], align_corners=False)
    cut = functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    factors = 1 + jitter * (2 * torch.rand(3, len(pictures), 1, 1, 1, generator=generator) - 1)
    return _lit(cut, *factors.to(pictures.device))


def _crops(count: int, share: tuple[float, float], *, generator: torch.Generator) -> Tensor:
    """Return the affine maps (B, 2, 3) from a view's coordinates to a picture's, both in [-1, 1]."""
    draws = torch.rand(5, count, generator=generator)
    area = share[0] + (share[1] - share[0]) * draws[0]
    ratio = torch.exp((2 * draws[1] - 1) * math.log(RATIO))
    half = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()]).clamp(max=1)  # (2, B): of width and height
    middle = (1 - half) * (2 * draws[2:4] - 1)
    mirrored = torch.where(draws[4] < 1 / 2, -1.0, 1.0)
    zero = torch.zeros(count)
    rows = [torch.stack([half[0] * mirrored, zero, middle[0]], 1), torch.stack([zero, half[1], middle[1]], 1)]
    return torch.stack(rows, 1)


def _lit(pictures: Tensor, light: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Return pictures (B, 3, s, s) with light, contrast and saturation (B, 1, 1, 1) multiplied."""
    lit = (pictures * light).clamp(0, 1)
    weights = torch.tensor(LUMA, device=pictures.device)[:, None, None]
    mean = (lit * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    lit = (mean + (lit - mean) * contrast).clamp(0, 1)
    grey = (lit * weights).sum(1, keepdim=True)
    return (grey + (lit - grey) * saturation).clamp(0, 1)
