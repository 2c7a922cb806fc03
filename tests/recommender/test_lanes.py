"""The kernels of registers against what they say they compute, in float64 by torch, and which models they read."""

import numba
import numpy as np
import pytest
import torch
from torch import nn

from tessera.recommender import lanes, readers
from tessera.recommender.beam import beam_search
from tessera.recommender.lane_reader import LaneReader
from tessera.recommender.lanes import Shape, flat, lanes_for, panels
from tessera.recommender.model import Sizes
from tessera.recommender.readers import LANES, TorchReader, has_lanes, reader_of, suits_lanes
from tessera.recommender.trie import build_trie
from tests.recommender.conftest import FILLING, TINY

EPSILON = 1e-6
NEAR = {"atol": 2e-5, "rtol": 2e-5}

#: Projections that the kernel makes itself.
NOTHING, NO_TOKENS = np.zeros(0, np.float32), np.zeros(0, np.int64)

#: Panels of one to four registers, alone and after a whole one.
WIDTHS = [16, 32, 48, 64, 80, 112]


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator)


def normed(states):
    states = states.double()
    return states / (states.square().mean(-1, keepdim=True) + EPSILON).sqrt()


def softmax_attention(queries, keys, values, bias):
    """(U, H, R, d) queries, (U, H, T, d) keys and values: (U, R, H * d)."""
    scores = queries.double() @ keys.double().transpose(2, 3) + bias
    return (scores.softmax(-1) @ values.double()).transpose(1, 2).flatten(2)


def heads_of(projected, parts, width):
    return [part.transpose(1, 2) for part in projected.unflatten(2, (parts, -1, width)).unbind(2)]


def padded(bias):
    return nn.functional.pad(bias, (0, -bias.shape[-1] % LANES), value=-torch.inf).contiguous()


@pytest.mark.parametrize("rows", [1, 4, 5, 6, 9, lanes.BLOCK, lanes.BLOCK + 1])
@pytest.mark.parametrize("columns", WIDTHS)
def test_a_projection_is_that_of_the_normed_states(draw, rows, columns):
    states, weights, out = draw(rows, 48), draw(columns, 48), torch.full((rows, columns), torch.nan)
    lanes.project(flat(states), 48, panels(weights), columns, EPSILON, flat(out))
    torch.testing.assert_close(out.double(), normed(states) @ weights.double().T, **NEAR)


@pytest.mark.parametrize(("rows", "depth", "wide"), [(1, 16, 32), (7, 48, 80), (2 * lanes.BLOCK + 3, 32, 64)])
def test_a_feed_forward_layer_is_added(draw, rows, depth, wide):
    states, widening, narrowing = draw(rows, depth), draw(wide, depth), draw(depth, wide)
    before, out = states.clone(), torch.full_like(states, torch.nan)
    lanes.feed_forward(flat(states), depth, wide, panels(widening), panels(narrowing), EPSILON, flat(out))
    inner = (normed(states) @ widening.double().T).clamp(min=0)
    torch.testing.assert_close(out.double(), states + inner @ narrowing.double().T, atol=2e-4, rtol=2e-5)
    assert torch.equal(states, before)


@pytest.mark.parametrize("length", [1, 4, 5, 15, 16, 17, 33, lanes.BLOCK + 5])
def test_self_attention_is_added(draw, length):
    users, depth, heads, width = 3, 32, 2, 48
    states, output = draw(users, length, depth), draw(depth, heads * width)
    projection = 0.1 * draw(3 * heads * width, depth)
    bias = draw(users, heads, length, length)
    bias[..., -1:] = torch.finfo(torch.float32).min if length > 1 else 0.0  # the last token is padding
    shape = Shape(users, length, depth, heads, width)
    projected = normed(states) @ projection.double().T
    expected = states + softmax_attention(*heads_of(projected, 3, width), bias) @ output.double().T
    tokens = torch.randperm(users * length, generator=torch.Generator().manual_seed(1))
    table = torch.empty(users * length, 3 * heads * width)
    table[tokens] = projected.float().flatten(0, 1)
    for ready in (NOTHING, flat(table)):
        out = torch.full_like(states, torch.nan)
        lanes.attend_to_itself(
            flat(states), shape, panels(projection), panels(output), ready, flat(tokens), flat(padded(bias)), EPSILON,
            flat(out),
        )  # fmt: skip
        torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=2e-5)


@pytest.mark.parametrize("length", [1, 15, 16, 21, 33])
@pytest.mark.parametrize("beams", [1, 4, 20, lanes.BLOCK + 2])
def test_attention_to_a_source_is_added(draw, length, beams):
    users, depth, heads, width = 3, 48, 3, 16
    states, projection, output = draw(users, beams, depth), 0.1 * draw(heads * width, depth), draw(depth, heads * width)
    both = draw(users, length, 2 * heads * width)
    hidden = torch.zeros(users, length)
    hidden[1:, length // 2 + 1 :] = torch.finfo(torch.float32).min
    turned = torch.full((users, heads, width, lanes_for(length)), torch.nan)
    lanes.turn_keys(flat(both), Shape(users, length, depth, heads, width), flat(turned))
    keys, values = heads_of(both, 2, width)
    assert torch.equal(turned[..., :length], keys.transpose(2, 3))
    out = torch.full_like(states, torch.nan)
    lanes.attend_to_source(
        flat(states), Shape(users, beams, depth, heads, width), panels(projection), panels(output), flat(turned),
        flat(both), flat(padded(hidden)), EPSILON, flat(out),
    )  # fmt: skip
    (queries,) = heads_of(normed(states) @ projection.double().T, 1, width)
    expected = states + softmax_attention(queries, keys, values, hidden[:, None, None]) @ output.double().T
    torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=2e-5)


@pytest.mark.parametrize("steps", [1, 2, 4, 17])
@pytest.mark.parametrize("beams", [1, 20, lanes.BLOCK + 2])
@pytest.mark.parametrize("is_ready", [False, True])
def test_attention_to_a_path_is_added(draw, steps, beams, is_ready):
    users, depth, heads, width, longest = 3, 32, 2, 16, 18
    inner, read = heads * width, beams * (steps - 1)
    states, projection, output = draw(users, beams, depth), 0.1 * draw(3 * inner, depth), draw(depth, inner)
    memory = [draw(users, read + beams, inner) for _ in range(2)]
    distances = draw(heads, longest)
    pick = torch.Generator().manual_seed(1)
    paths = torch.cat(
        [torch.randint(beams, (users, beams, 1), generator=pick) + beams * step for step in range(steps - 1)]
        + [(read + torch.arange(beams))[:, None].expand(users, -1, 1)],
        dim=2,
    )
    out = torch.full_like(states, torch.nan)
    projected = normed(states) @ projection.double().T
    before = [part[:, :read].clone() for part in memory]
    ready, tokens = NOTHING, torch.from_numpy(NO_TOKENS)
    if is_ready:
        ready, tokens = flat(projected.float().flatten(0, 1).flip(0).contiguous()), torch.arange(users * beams).flip(0)
    lanes.attend_to_past(
        flat(states), Shape(users, beams, depth, heads, width), panels(projection), panels(output), ready, flat(tokens),
        *map(flat, memory), read, flat(paths), flat(distances), EPSILON, flat(out),
    )  # fmt: skip
    queries, *new = projected.split(inner, dim=2)
    for slots, old, added in zip(memory, before, new, strict=True):
        assert torch.equal(slots[:, :read], old)
        torch.testing.assert_close(slots[:, read:].double(), added, **NEAR)
    along = [
        part[torch.arange(users)[:, None, None], paths].unflatten(3, (heads, width)).double() for part in memory
    ]  # (U, k, steps, H, d)
    scores = (queries.unflatten(2, (heads, width))[:, :, None] * along[0]).sum(-1) + distances[:, longest - steps :].T
    attended = (scores.softmax(2)[..., None] * along[1]).sum(2).flatten(2)
    torch.testing.assert_close(out.double(), states + attended @ output.double().T, atol=1e-4, rtol=2e-5)


@pytest.mark.parametrize("rows", [1, 5, lanes.FEW + 7])
def test_log_probabilities_are_among_all_tokens(draw, rows):
    finished, weights = draw(rows, 32), draw(50, 32)
    tokens = torch.randint(50, (rows, 7), generator=torch.Generator().manual_seed(1))
    start = nn.functional.pad(torch.zeros(50), (0, 14), value=-torch.inf)
    out = torch.full((rows, 7), torch.nan)
    lanes.log_probabilities(
        flat(finished), 32, panels(nn.functional.pad(weights, (0, 0, 0, 14))), flat(start), flat(tokens), flat(out)
    )
    expected = (finished.double() @ weights.double().T).log_softmax(1).gather(1, tokens)
    torch.testing.assert_close(out.double(), expected, **NEAR)


@numba.njit
def powers(row, largest):
    return lanes._exponentials(row, 0, row.size, largest)


@numba.njit
def largest_of(row):
    return lanes._largest(row, 0, row.size)


def test_powers_are_those_of_e():
    exponents = np.linspace(lanes._LEAST, 0, 16 * 1000, dtype=np.float32)
    row, expected = exponents.copy(), np.exp(exponents.astype(np.float64))
    total = powers(row, np.float32(0))
    assert np.abs(row / expected - 1).max() < 4e-7
    assert total == pytest.approx(expected.sum(), rel=1e-6)
    row = np.full(16, lanes._LEAST - 100, np.float32)
    powers(row, np.float32(0))
    assert 0 < row.max() < 2e-35


@pytest.mark.parametrize("lane", range(32))
def test_the_largest_may_stand_anywhere(draw, lane):
    row = draw(32).numpy()
    row[lane] = 9
    assert largest_of(row) == 9
    row[lane] = -9
    assert largest_of(row) == row.max() < 9


def test_scores_far_apart_neither_overflow_nor_vanish():
    states = 4 * torch.eye(16)[None]
    projection = torch.cat([40 * torch.eye(16), 40 * torch.eye(16), torch.eye(16)])
    bias, out = torch.zeros(1, 1, 16, 16), torch.empty_like(states)
    lanes.attend_to_itself(
        flat(states), Shape(1, 16, 16, 1, 16), panels(projection), panels(torch.eye(16)), NOTHING,
        NO_TOKENS, flat(bias), EPSILON, flat(out),
    )  # fmt: skip
    torch.testing.assert_close(out.double(), states + normed(states), **NEAR)  # each attends to itself alone


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_what_is_no_number_stays_none(draw, wrong):
    states, widening, narrowing = draw(12, 16), draw(32, 16), draw(16, 32)
    states[7, 3] = wrong
    out, bias = torch.empty_like(states), torch.zeros(1, 1, 12, 16)
    lanes.feed_forward(flat(states), 16, 32, panels(widening), panels(narrowing), EPSILON, flat(out))
    assert out[7].isnan().all()
    assert out[[0, 6, 8, 11]].isfinite().all()
    bias[..., 12:] = -torch.inf
    lanes.attend_to_itself(
        flat(states), Shape(1, 12, 16, 1, 16), panels(draw(48, 16)), panels(draw(16, 16)), NOTHING, NO_TOKENS,
        flat(bias), EPSILON, flat(out),
    )  # fmt: skip
    assert out.isnan().all()  # all attend to the one


@pytest.mark.parametrize("positions", ["tokens", "items"])
@pytest.mark.parametrize("users", [1, 8])
def test_both_readers_find_the_same(world, model, positions, users):
    sizes = Sizes(48, 112, 16, 3, 3, 2, dropout=0.1, initializer_factor=1.0, positions=positions)
    here = world(users=users)
    network, trie = model(here, sizes=sizes).eval(), build_trie(here.tokens["text"])
    network.config.layer_norm_epsilon = 0.1
    for number, norm in enumerate(each for each in network.modules() if hasattr(each, "variance_epsilon")):
        norm.variance_epsilon = 0.1
        nn.init.uniform_(norm.weight, 0.5, 2.0, generator=torch.Generator().manual_seed(number))  # ones before
    source = here.samples().source.padded(torch.arange(users))
    one, other = (
        beam_search(reader(network), trie, source, beams=9, renormalise=False) for reader in (TorchReader, LaneReader)
    )
    torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
    assert torch.equal(one.items, other.items)


def test_states_too_large_for_their_squares_are_as_nothing():
    states, out = torch.full((6, 16), 1e30), torch.empty(6, 16)
    lanes.project(flat(states), 16, panels(torch.eye(16)), 16, EPSILON, flat(out))
    assert torch.equal(out, nn.functional.rms_norm(states, (16,), eps=EPSILON))


def test_a_token_whose_logit_is_no_number_leaves_no_probability(draw):
    finished, weights = draw(6, 16), draw(16, 16)
    weights[5, 5] = torch.nan
    tokens, out = torch.arange(16).expand(6, -1).contiguous(), torch.zeros(6, 16)
    lanes.log_probabilities(flat(finished), 16, panels(weights), np.zeros(16, np.float32), flat(tokens), flat(out))
    assert out.isnan().all()


def test_states_of_zero_have_a_norm():
    states, out = torch.zeros(7, 16), torch.full((7, 16), torch.nan)
    states[3] = 1e-4
    lanes.project(flat(states), 16, panels(torch.eye(16)), 16, EPSILON, flat(out))
    torch.testing.assert_close(out.double(), normed(states), **NEAR)


def test_kernels_are_compiled_where_there_is_no_folder_to_keep_them(monkeypatch):
    njit = numba.njit

    def nowhere(*arguments, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*arguments, **options)

    def doubled(row):
        for place in range(row.size):
            row[place] *= 2

    monkeypatch.setattr(lanes.numba, "njit", nowhere)
    row = np.arange(3, dtype=np.float32)
    lanes._kernel(numba.float32[::1])(doubled)(row)
    assert row.tolist() == [0, 2, 4]


@pytest.mark.skipif(not has_lanes(), reason="this processor has no registers of 512 bits")
def test_a_model_that_fills_registers_is_read_by_them(world, model):
    here = world()
    assert isinstance(reader_of(model(here, sizes=FILLING).eval()), LaneReader)


@pytest.mark.parametrize("size", ["d_model", "d_ff", "d_kv"])
def test_a_model_that_fills_none_is_read_by_torch(world, model, size):
    narrow = FILLING._replace(**{size: getattr(FILLING, size) + 8})
    assert isinstance(reader_of(model(world(), sizes=narrow).eval()), TorchReader)


def test_a_model_of_another_kind_or_place_is_read_by_torch(world, model, monkeypatch):
    here = model(world(), sizes=FILLING).eval()
    assert suits_lanes(here) == has_lanes()
    monkeypatch.setattr(readers, "has_lanes", lambda: True)
    assert suits_lanes(here)
    assert not suits_lanes(here.double())
    assert not suits_lanes(model(world(), sizes=FILLING).to("meta"))
    monkeypatch.setattr(readers, "has_lanes", lambda: False)
    assert isinstance(reader_of(model(world(), sizes=FILLING)), TorchReader)
    assert not suits_lanes(model(world(), sizes=TINY))


def test_registers_are_as_wide_as_is_asked_before_they_are_used():
    assert lanes.LANES == LANES


@pytest.mark.parametrize("size", ["d_model", "d_ff", "d_kv"])
def test_a_model_that_fills_none_is_refused(world, model, size):
    with pytest.raises(ValueError, match="widths are multiples of 16"):
        LaneReader(model(world(), sizes=FILLING._replace(**{size: getattr(FILLING, size) + 8})))


@torch.inference_mode()
def test_tokens_and_sources_that_kernels_cannot_look_up_are_refused(world, model):
    here = world()
    reader, trie = LaneReader(model(here, sizes=FILLING).eval()), build_trie(here.tokens["text"] + 1000)
    with pytest.raises(IndexError, match="expected tokens below"):
        beam_search(reader, trie, here.samples().source.padded(torch.arange(2)), beams=3, renormalise=False)
    with pytest.raises(ValueError, match="at least one token"):
        reader.begin(torch.zeros(2, 0, dtype=torch.long), widths=[1])


def test_sources_may_lie_apart_and_be_narrow(world, model):
    here = world()
    reader, trie = LaneReader(model(here, sizes=FILLING).eval()), build_trie(here.tokens["text"])
    source = here.samples().source.padded(torch.arange(4))
    expected = beam_search(reader, trie, source, beams=3, renormalise=False)
    for other in (source.int(), source.T.contiguous().T):
        assert torch.equal(beam_search(reader, trie, other, beams=3, renormalise=False).scores, expected.scores)


def test_without_a_compiler_torch_reads(world, model, monkeypatch):
    has_lanes.cache_clear()
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert isinstance(reader_of(model(world(), sizes=FILLING)), TorchReader)
    has_lanes.cache_clear()
