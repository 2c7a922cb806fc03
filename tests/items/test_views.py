"""Views of pictures: how large they are, what they show, and that chance alone decides."""

import pytest
import torch

from tessera.items.views import Cuts, views

CUTS = Cuts(size=16, local_size=8, local_views=3, scale=0.4, jitter=0.0)
#: How bright a column is, from left to right, tells where a view was cut.
RAMP = torch.arange(0, 256, 16, dtype=torch.uint8).expand(3, 16, 16).permute(1, 2, 0).expand(40, 16, 16, 3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def shown(part):
    """The share of the ramp's width that views (B, 3, s, s) show."""
    inner = part[:, 0, 4, :]
    return (inner.amax(1) - inner.amin(1)) / (240 / 255)


def test_two_global_views_and_local_ones_a_picture():
    seen = views(RAMP, cuts=CUTS, generator=generator())
    assert seen.large.shape == (80, 3, 16, 16)
    assert seen.small.shape == (120, 3, 8, 8)
    assert views(RAMP, cuts=CUTS._replace(local_views=0), generator=generator()).small.shape == (0, 3, 8, 8)
    assert 0 <= float(seen.large.min()) <= float(seen.large.max()) <= 1


def test_global_views_show_more_than_local_ones():
    """A view whose area is at least 0.4 at a ratio of at most 4 : 3 is at least 0.54 wide; one below, at most 0.74."""
    seen = views(RAMP, cuts=CUTS, generator=generator())
    assert float(shown(seen.large).min()) > 0.45
    assert float(shown(seen.small).max()) < 0.75
    assert float(shown(seen.small).min()) < 0.4


def test_some_views_are_mirrored():
    rising = views(RAMP, cuts=CUTS, generator=generator()).large[:, 0, 4]
    share = float((rising[:, -1] > rising[:, 0]).float().mean())
    assert 0.25 < share < 0.75


def test_views_stay_within_the_picture_and_upright():
    """Every row of the ramp is the same, and so is every row of a view."""
    seen = views(RAMP, cuts=CUTS, generator=generator())
    torch.testing.assert_close(seen.large, seen.large[:, :, :1].expand_as(seen.large))


def test_jitter_changes_the_light_and_nothing_does_without_it():
    plain = torch.full((6, 16, 16, 3), 100, dtype=torch.uint8)
    still = views(plain, cuts=CUTS, generator=generator()).large
    torch.testing.assert_close(still, torch.full_like(still, 100 / 255))
    lit = views(plain, cuts=CUTS._replace(jitter=0.5), generator=generator()).large
    means = lit.mean((1, 2, 3))
    assert means.unique().numel() == 12
    assert float(means.min()) >= 49 / 255
    assert float(means.max()) <= 151 / 255


def test_the_same_seed_gives_the_same_views():
    cuts = CUTS._replace(jitter=0.3)
    one, other, third = (views(RAMP, cuts=cuts, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.large, other.large)
    assert torch.equal(one.small, other.small)
    assert not torch.equal(one.large, third.large)


@pytest.mark.parametrize("part", ["large", "small"])
def test_views_of_a_picture_stand_in_its_place(part):
    """Each view's B pictures are in the order of the pictures."""
    shades = torch.arange(0, 200, 50, dtype=torch.uint8)[:, None, None, None].expand(4, 16, 16, 3)
    seen = getattr(views(shades, cuts=CUTS, generator=generator()), part)
    found = seen.mean((1, 2, 3)).unflatten(0, (-1, 4)) * 255
    torch.testing.assert_close(found, torch.tensor([0.0, 50, 100, 150]).expand_as(found), atol=1e-3, rtol=0)
