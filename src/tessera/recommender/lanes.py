"""The layers of a T5 for inference on a CPU, in registers of 16 floats: what ranking there is made of.

`torch` multiplies large matrices at the rate of the processor, but those of attention, some 20 x 64 x 21, at a fifth of
it, and what stands between two products goes through memory each time. Here one kernel, `_tile`, makes all products:
its sums stay in registers and begin with what is to be added, a residual or a bias, and a layer runs from its norm to
its residual for as many rows as the cache holds. Numba compiles it for the processor at hand, and keeps what it
compiled beside this file. It looks at this file alone for whether that is still good, so all that is compiled is here.

All arrays are flat and contiguous, and whole numbers count elements. All widths are multiples of 16. Weights lie in
panels: 64 columns (the last panel has what is left), row after row.

Letters: U users, R rows of a user (tokens of a source, or beams), D width of the model, H heads, d width of a head,
T source tokens, T' the next multiple of 16, S slots.
"""

import inspect
from collections.abc import Callable
from functools import cache, partial, wraps
from pickle import UnpicklingError
from typing import Any, Final, NamedTuple

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]

LANES: Final = 16
"""Floats in a register, which `tessera.recommender.readers` knows too."""

PANEL: Final = 4 * LANES
"""Columns of a panel."""

TOGETHER: Final = 5
"""Rows of a tile: its 5 x 4 sums, a row of a panel and a factor fill 25 of 32 registers."""

BLOCK: Final = 120
"""Rows that go through a layer together: with 1,024 floats each they take half a megabyte."""

FEW: Final = 40
"""Rows of which all logits are computed together: with 2,048 each they take a third of a megabyte."""

NONE: Final = np.float32(-np.inf)
"""A floor that lifts nothing; what is added to the score of what is no token."""

ONE: Final = np.float32(1)

_FLOAT: Final = ir.FloatType()
_LANES: Final = ir.VectorType(_FLOAT, LANES)
_WORD: Final = ir.IntType(32)
_WORDS: Final = ir.VectorType(_WORD, LANES)
_INDEX: Final = ir.IntType(64)

#: Sums may be taken in another order and a product be added in one step. "Fast" mathematics would also assume that no
#: value is infinite or no number, and divide by way of reciprocals, which makes a root of infinity no number.
_FREEDOMS: Final = {"reassoc", "contract", "nsz"}
_OPTIONS: Final[dict[str, Any]] = {
    "nogil": True, "boundscheck": False, "error_model": "numpy", "fastmath": _FREEDOMS,
}  # fmt: skip

#: Coefficients of exp(x) for |x| <= ln 2 / 2, highest power first (those of expf in Cephes).
_EXP: Final = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5, 1.0, 1.0)

#: Below it exp is taken for that of it, 1.8e-35: less than any sum shows, and shares of it still have all their bits.
_LEAST: Final = -80.0


class Shape(NamedTuple):
    """How much there is of what goes through an attention layer."""

    users: int
    rows: int  # of each user
    depth: int  # D
    heads: int
    width: int  # d


class Rows(NamedTuple):
    """Rows of numbers in a flat array."""

    values: Floats
    at: int  # where the first one begins
    step: int  # from one to the next


def panels(weights: Tensor) -> Floats:
    """Return weights (N, K) of a layer that maps K numbers to N, a multiple of 16, as panels."""
    return torch.cat([panel.T.reshape(-1) for panel in weights.split(PANEL)]).numpy()


def flat(tensor: Tensor) -> NDArray[Any]:
    """Return a contiguous tensor as a flat array, which shares its memory."""
    return tensor.view(-1).numpy()


def lanes_for(length: int) -> int:
    """Return the next multiple of 16."""
    return (length + LANES - 1) // LANES * LANES


# --- Instructions: what follows up to `_inner` writes them, and is no part of what runs later.


def _instruction(emit: Callable[..., Any], *, result: Any = types.void) -> Any:
    """Return what compiled code calls to have emit(builder, ...) write instructions; an array comes as its address."""

    def called(_: Any, *arguments: Any) -> Any:
        kinds = (kind if isinstance(kind, types.Array | types.Float) else types.intp for kind in arguments)

        def write(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            plain = (
                context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
                for kind, value in zip(signature.args, values, strict=True)
            )
            return emit(builder, *plain) or context.get_dummy_value()

        return result(*kinds), write

    called.__signature__ = inspect.signature(emit)  # type: ignore[attr-defined]
    return intrinsic(called)


def _index(value: int) -> Any:
    return ir.Constant(_INDEX, value)


def _constant(value: float) -> Any:
    return ir.Constant(_LANES, [float(np.float32(value))] * LANES)


def _loaded(builder: Any, array: Any, at: Any, *, kind: Any = _LANES) -> Any:
    return builder.load(builder.bitcast(builder.gep(array, [at]), kind.as_pointer()), align=4)


def _store(builder: Any, value: Any, array: Any, at: Any) -> None:
    builder.store(value, builder.bitcast(builder.gep(array, [at]), _LANES.as_pointer()), align=4)


def _shuffled(builder: Any, one: Any, other: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(one, other, ir.Constant(_WORDS, places))


def _spread(builder: Any, value: Any) -> Any:
    """Return value in every lane."""
    alone = builder.insert_element(ir.Constant(_LANES, ir.Undefined), value, ir.Constant(_WORD, 0))
    return _shuffled(builder, alone, alone, [0] * LANES)


def _multiply_add(builder: Any, one: Any, other: Any, added: Any) -> Any:
    kind = ir.FunctionType(_LANES, [_LANES] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    return builder.call(function, [one, other, added])


def _larger(builder: Any, one: Any, other: Any) -> Any:
    """Return the larger of two, and other where one of them is no number."""
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)


def _across(builder: Any, value: Any, joined: Callable[[Any, Any], Any]) -> Any:
    """Return what joined makes of all lanes of value, in every lane."""
    distance = LANES // 2
    while distance:
        turned = _shuffled(builder, value, value, [(lane + distance) % LANES for lane in range(LANES)])
        value, distance = joined(value, turned), distance // 2
    return value


def _loop(
    builder: Any, count: Any, step: int, start: list[Any], body: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Write a loop over i = 0, step, ... below count, which is above 0; body makes of i and values the next values."""
    before = builder.block
    inside, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(inside)
    builder.position_at_end(inside)
    i, values = builder.phi(_INDEX), [builder.phi(value.type) for value in start]
    found = body(i, values)
    following = builder.add(i, _index(step))
    for phi, first, later in zip([i, *values], [_index(0), *start], [following, *found], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), inside, after)
    builder.position_at_end(after)
    return found


def _emit_dot(builder: Any, a: Any, a_at: Any, b: Any, b_at: Any, count: Any) -> Any:
    """Return the sum of the products of count numbers."""

    def summed(i: Any, sums: list[Any]) -> list[Any]:
        one, other = _loaded(builder, a, builder.add(a_at, i)), _loaded(builder, b, builder.add(b_at, i))
        return [_multiply_add(builder, one, other, sums[0])]

    total = _across(builder, _loop(builder, count, LANES, [_constant(0)], summed)[0], builder.fadd)
    return builder.extract_element(total, ir.Constant(_WORD, 0))


def _emit_scale(builder: Any, factor: Any, a: Any, a_at: Any, c: Any, c_at: Any, count: Any) -> None:
    """Make c = factor a for count numbers."""

    def scaled(i: Any, values: list[Any]) -> list[Any]:
        value = _loaded(builder, a, builder.add(a_at, i))
        _store(builder, builder.fmul(values[0], value), c, builder.add(c_at, i))
        return values

    _loop(builder, count, LANES, [_spread(builder, factor)], scaled)


def _emit_add(builder: Any, factor: Any, a: Any, a_at: Any, c: Any, c_at: Any, count: Any) -> None:
    """Make c = c + factor a for count numbers."""

    def added(i: Any, values: list[Any]) -> list[Any]:
        there = builder.add(c_at, i)
        value = _loaded(builder, a, builder.add(a_at, i))
        _store(builder, _multiply_add(builder, values[0], value, _loaded(builder, c, there)), c, there)
        return values

    _loop(builder, count, LANES, [_spread(builder, factor)], added)


def _emit_largest(builder: Any, row: Any, at: Any, count: Any) -> Any:
    """Return the largest of count numbers."""

    def larger(i: Any, values: list[Any]) -> list[Any]:
        return [_larger(builder, _loaded(builder, row, builder.add(at, i)), values[0])]

    largest = _loop(builder, count, LANES, [_constant(-np.inf)], larger)[0]
    return builder.extract_element(_across(builder, largest, partial(_larger, builder)), ir.Constant(_WORD, 0))


def _emit_exponentials(builder: Any, row: Any, at: Any, count: Any, largest: Any) -> Any:
    """Turn count numbers x into exp(x - largest); return their sum."""
    shift = _spread(builder, largest)

    def exponentials(i: Any, values: list[Any]) -> list[Any]:
        place = builder.add(at, i)
        power = _exponential(builder, builder.fsub(_loaded(builder, row, place), shift))
        _store(builder, power, row, place)
        return [builder.fadd(values[0], power)]

    total = _loop(builder, count, LANES, [_constant(0)], exponentials)[0]
    return builder.extract_element(_across(builder, total, builder.fadd), ir.Constant(_WORD, 0))


def _exponential(builder: Any, x: Any) -> Any:
    """Return exp(x) = 2^n exp(r) of x = n ln 2 + r, which is 0 at most."""
    x = builder.select(builder.fcmp_ordered("<", x, _constant(_LEAST)), _constant(_LEAST), x)
    n = builder.fptosi(builder.fsub(builder.fmul(x, _constant(1 / np.log(2))), _constant(0.5)), _WORDS)
    r = _multiply_add(builder, builder.sitofp(n, _LANES), _constant(-np.log(2)), x)
    power = _constant(_EXP[0])
    for coefficient in _EXP[1:]:
        power = _multiply_add(builder, power, r, _constant(coefficient))
    exponent = builder.shl(builder.add(n, ir.Constant(_WORDS, [127] * LANES)), ir.Constant(_WORDS, [23] * LANES))
    return builder.fmul(power, builder.bitcast(exponent, _LANES))


def _emit_turned(builder: Any, a: Any, a_at: Any, a_step: Any, last: Any, c: Any, c_at: Any, c_step: Any) -> None:
    """Make c the transpose of 16 x 16 numbers of a, where all rows after the last are the last again."""
    rows = []
    for row in map(_index, range(LANES)):
        there = builder.select(builder.icmp_signed("<", row, last), row, last)
        rows.append(_loaded(builder, a, builder.add(a_at, builder.mul(a_step, there))))
    half = LANES // 2
    while half:  # two blocks of half x half change places across the diagonal; then the same within each block
        upper = [lane if not lane & half else LANES + (lane ^ half) for lane in range(LANES)]
        lower = [lane ^ half if not lane & half else LANES + lane for lane in range(LANES)]
        for row in range(LANES):
            if not row & half:
                one, other = rows[row], rows[row + half]
                rows[row] = _shuffled(builder, one, other, upper)
                rows[row + half] = _shuffled(builder, one, other, lower)
        half //= 2
    for row, values in enumerate(rows):
        _store(builder, values, c, builder.add(c_at, builder.mul(c_step, _index(row))))


def _tile(registers: int) -> Any:
    """Return the instruction of a tile: c = max(floor, start + a b), TOGETHER rows and 16 columns a register."""

    def emit(
        builder: Any, depth: Any, a: Any, a_at: Any, a_step: Any, b: Any, b_at: Any, b_step: Any,
        start: Any, start_at: Any, start_step: Any, c: Any, c_at: Any, c_step: Any, floor: Any,
    ) -> None:  # fmt: skip
        def place(at: Any, step: Any, row: int, register: int = 0) -> Any:
            return builder.add(builder.add(at, builder.mul(step, _index(row))), _index(LANES * register))

        cells = [(row, register) for row in range(TOGETHER) for register in range(registers)]
        heads = [place(a_at, a_step, row) for row in range(TOGETHER)]

        def summed(i: Any, sums: list[Any]) -> list[Any]:
            at = builder.add(b_at, builder.mul(b_step, i))
            columns = [_loaded(builder, b, builder.add(at, _index(LANES * register))) for register in range(registers)]
            factors = [_spread(builder, _loaded(builder, a, builder.add(head, i), kind=_FLOAT)) for head in heads]
            return [
                _multiply_add(builder, factors[row], columns[register], each)
                for (row, register), each in zip(cells, sums, strict=True)
            ]

        begun = [_loaded(builder, start, place(start_at, start_step, *cell)) for cell in cells]
        lowest = _spread(builder, floor)
        for cell, each in zip(cells, _loop(builder, depth, 1, begun, summed), strict=True):
            lifted = builder.select(builder.fcmp_ordered("<", each, lowest), lowest, each)
            _store(builder, lifted, c, place(c_at, c_step, *cell))

    return _instruction(emit)


_four, _two, _one = map(_tile, (4, 2, 1))
_dot: Final = _instruction(_emit_dot, result=types.float32)
_scale: Final = _instruction(_emit_scale)
_add: Final = _instruction(_emit_add)
_largest: Final = _instruction(_emit_largest, result=types.float32)
_exponentials: Final = _instruction(_emit_exponentials, result=types.float32)
_turned: Final = _instruction(_emit_turned)


# --- What runs: compiled Python.


def _inner(function: Callable[..., Any]) -> Any:
    """Return function compiled for others here."""
    return numba.njit(**_OPTIONS)(function)


def _kernel(*arguments: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Have a function of such arguments compiled when it is first called, or loaded where it was kept."""

    def prepared(function: Callable[..., None]) -> Callable[..., None]:
        @cache
        def compiled() -> Callable[..., None]:
            signature = types.void(*arguments)
            try:
                return numba.njit(signature, cache=True, **_OPTIONS)(function)
            except (RuntimeError, OSError, EOFError, UnpicklingError):  # it cannot be kept, or what was is damaged
                return numba.njit(signature, **_OPTIONS)(function)

        @wraps(function)
        def called(*values: Any) -> None:
            compiled()(*values)

        return called

    return prepared


_lanes_for: Final = _inner(lanes_for)
_NUMBERS: Final = types.float32[::1]
_TOKENS: Final = types.int64[::1]
_COUNT: Final = types.int64
_SHAPE: Final = numba.typeof(Shape(0, 0, 0, 0, 0))


@_inner
def _product(rows: int, columns: int, depth: int, a: Rows, b: Rows, start: Rows, c: Rows, floor: float) -> None:
    """Make c (rows, columns) = max(floor, start + a b); a step of 0 says that b lies in panels.

    The last tile reaches back over rows that were there before. Fewer rows than it has are computed one by one, by
    tiles whose rows all are that one and are stored in its place, which takes no longer: the sums of one row alone
    would wait for each other.
    """
    together, a_row, start_row, c_row = TOGETHER, a.step, start.step, c.step
    if rows < TOGETHER:
        together, a_row, start_row, c_row = 1, 0, 0, 0
    for column in range(0, columns, PANEL):
        width = min(PANEL, columns - column)
        panel, step = (b.at + column, b.step) if b.step else (b.at + column * depth, width)
        for first in range(0, rows, together):
            i = min(first, rows - together)
            x, y, z = a.at + i * a.step, start.at + i * start.step + column, c.at + i * c.step + column
            if width == PANEL:
                _four(
                    depth, a.values, x, a_row, b.values, panel, step, start.values, y, start_row, c.values, z, c_row,
                    floor,
                )  # fmt: skip
                continue
            if width >= 2 * LANES:
                _two(
                    depth, a.values, x, a_row, b.values, panel, step, start.values, y, start_row, c.values, z, c_row,
                    floor,
                )  # fmt: skip
            if width % (2 * LANES):
                last = width - LANES
                _one(
                    depth, a.values, x, a_row, b.values, panel + last, step, start.values, y + last, start_row,
                    c.values, z + last, c_row, floor,
                )  # fmt: skip


@_inner
def _normed(states: Floats, at: int, rows: int, depth: int, epsilon: float, out: Floats) -> None:
    """Make out (rows, depth) = states over their root mean square."""
    for row in range(rows):
        here = at + row * depth
        mean = _dot(states, here, states, here, depth) / np.float32(depth)
        _scale(ONE / np.sqrt(mean + epsilon), states, here, out, row * depth, depth)


@_inner
def _projected(
    states: Floats, at: int, rows: int, depth: int, weights: Floats, columns: int, epsilon: float, floor: float,
    normed: Floats, zeros: Floats, out: Floats, to: int,
) -> None:  # fmt: skip
    """Make out (rows, columns) = max(floor, norm(states) weights)."""
    _normed(states, at, rows, depth, epsilon, normed)
    _product(
        rows, columns, depth, Rows(normed, 0, depth), Rows(weights, 0, 0), Rows(zeros, 0, 0), Rows(out, to, columns),
        floor,
    )  # fmt: skip


@_inner
def _softmax(row: Floats, at: int, count: int) -> None:
    """Turn count numbers into their softmax."""
    total = _exponentials(row, at, count, _largest(row, at, count))
    _scale(ONE / total, row, at, row, at, count)


@_inner
def _attended(
    count: int, length: int, width: int, queries: Rows, keys: Rows, values: Rows, bias: Rows, weights: Floats,
    zeros: Floats, out: Rows,
) -> None:  # fmt: skip
    """Make out (count, d) = softmax(bias + queries keys) values of one head with keys (d, T')."""
    room = keys.step
    _product(count, room, width, queries, keys, bias, Rows(weights, 0, room), NONE)
    for i in range(count):
        _softmax(weights, i * room, room)
    _product(count, width, length, Rows(weights, 0, room), values, Rows(zeros, 0, 0), out, NONE)


@_inner
def _turned_keys(length: int, width: int, keys: Rows, out: Rows) -> None:
    """Make out (d, T') the transpose of keys (T, d); the last key stands after the last, too."""
    for token in range(0, length, LANES):
        for i in range(0, width, LANES):
            _turned(
                keys.values, keys.at + token * keys.step + i, keys.step, length - 1 - token,
                out.values, out.at + i * out.step + token, out.step,
            )  # fmt: skip


@_inner
def _queries_keys_values(
    states: Floats, shape: Shape, first: int, count: int, projection: Floats, ready: Floats, tokens: Tokens,
    epsilon: float, normed: Floats, zeros: Floats, out: Floats,
) -> None:  # fmt: skip
    """Make out (count * R, 3 * H * d) those of the users first, first + 1, ...: projections, or what is ready."""
    rows, columns = count * shape.rows, 3 * shape.heads * shape.width
    if ready.size:
        for row in range(rows):
            _scale(ONE, ready, tokens[first * shape.rows + row] * columns, out, row * columns, columns)
        return
    at = first * shape.rows * shape.depth
    _projected(states, at, rows, shape.depth, projection, columns, epsilon, NONE, normed, zeros, out, 0)


@_inner
def _output(
    shape: Shape, first: int, count: int, attended: Floats, weights: Floats, states: Floats, out: Floats
) -> None:
    """Make out = states + attended (count * R, H * d) weights for the users first, first + 1, ..."""
    inner, beginning = shape.heads * shape.width, first * shape.rows * shape.depth
    _product(
        count * shape.rows, shape.depth, inner, Rows(attended, 0, inner), Rows(weights, 0, 0),
        Rows(states, beginning, shape.depth), Rows(out, beginning, shape.depth), NONE,
    )  # fmt: skip


@_kernel(_NUMBERS, _COUNT, _NUMBERS, _COUNT, types.float32, _NUMBERS)
def project(states: Floats, depth: int, weights: Floats, columns: int, epsilon: float, out: Floats) -> None:
    """Make out (..., columns) = norm(states (..., D)) weights."""
    rows = states.size // depth
    normed, zeros = np.empty(BLOCK * depth, np.float32), np.zeros(columns, np.float32)
    for row in range(0, rows, BLOCK):
        count = min(BLOCK, rows - row)
        _projected(
            states, row * depth, count, depth, weights, columns, epsilon, NONE, normed, zeros, out, row * columns
        )  # fmt: skip


@_kernel(_NUMBERS, _COUNT, _COUNT, _NUMBERS, _NUMBERS, types.float32, _NUMBERS)
def feed_forward(
    states: Floats, depth: int, wide: int, widening: Floats, narrowing: Floats, epsilon: float, out: Floats
) -> None:
    """Make out (..., D) = states + max(0, norm(states) widening) narrowing."""
    rows = states.size // depth
    normed, inner = np.empty(BLOCK * depth, np.float32), np.empty(BLOCK * wide, np.float32)
    zeros = np.zeros(wide, np.float32)
    for row in range(0, rows, BLOCK):
        count, at = min(BLOCK, rows - row), row * depth
        _projected(states, at, count, depth, widening, wide, epsilon, np.float32(0), normed, zeros, inner, 0)
        _product(
            count, depth, wide, Rows(inner, 0, wide), Rows(narrowing, 0, 0), Rows(states, at, depth),
            Rows(out, at, depth), NONE,
        )  # fmt: skip


@_kernel(_NUMBERS, _SHAPE, _NUMBERS)
def turn_keys(keys_and_values: Floats, shape: Shape, out: Floats) -> None:
    """Make out (U, H, d, T') the transpose of the keys of (U, T, 2, H, d); the rows of shape are tokens."""
    inner = shape.heads * shape.width
    room = _lanes_for(shape.rows)
    for user in range(shape.users):
        for head in range(shape.heads):
            keys = Rows(keys_and_values, user * shape.rows * 2 * inner + head * shape.width, 2 * inner)
            to = Rows(out, (user * shape.heads + head) * shape.width * room, room)
            _turned_keys(shape.rows, shape.width, keys, to)


@_kernel(_NUMBERS, _SHAPE, _NUMBERS, _NUMBERS, _NUMBERS, _TOKENS, _NUMBERS, types.float32, _NUMBERS)
def attend_to_itself(
    states: Floats, shape: Shape, projection: Floats, output: Floats, ready: Floats, tokens: Tokens, bias: Floats,
    epsilon: float, out: Floats,
) -> None:  # fmt: skip
    """Make out (U, T, D) = states + what self-attention makes of them; the rows of shape are tokens.

    Queries, keys and values are projections of the normed states, or, where it is not empty, those that ready
    (V, 3, H, d) has for tokens (U, T). bias (U, H, T, T') is added to the scores.
    """
    length, width, inner = shape.rows, shape.width, shape.heads * shape.width
    room = _lanes_for(length)
    together = max(1, BLOCK // length)
    normed = np.empty(together * length * shape.depth, np.float32)
    projected = np.empty(together * length * 3 * inner, np.float32)
    attended = np.empty(together * length * inner, np.float32)
    keys, weights = np.empty(width * room, np.float32), np.empty(length * room, np.float32)
    zeros = np.zeros(3 * inner, np.float32)
    for first in range(0, shape.users, together):
        count = min(together, shape.users - first)
        _queries_keys_values(
            states, shape, first, count, projection, ready, tokens, epsilon, normed, zeros, projected
        )  # fmt: skip
        for user in range(count):
            for head in range(shape.heads):
                at = user * length * 3 * inner + head * width
                _turned_keys(length, width, Rows(projected, at + inner, 3 * inner), Rows(keys, 0, room))
                _attended(
                    length, length, width, Rows(projected, at, 3 * inner), Rows(keys, 0, room),
                    Rows(projected, at + 2 * inner, 3 * inner),
                    Rows(bias, ((first + user) * shape.heads + head) * length * room, room), weights, zeros,
                    Rows(attended, user * length * inner + head * width, inner),
                )  # fmt: skip
        _output(shape, first, count, attended, output, states, out)


@_kernel(_NUMBERS, _SHAPE, _NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS, types.float32, _NUMBERS)
def attend_to_source(
    states: Floats, shape: Shape, projection: Floats, output: Floats, keys: Floats, keys_and_values: Floats,
    hidden: Floats, epsilon: float, out: Floats,
) -> None:  # fmt: skip
    """Make out (U, k, D) = states + what attention makes of a source; the rows of shape are beams.

    Queries are projections of the normed states, keys (U, H, d, T') what turn_keys makes of keys_and_values
    (U, T, 2, H, d); hidden (U, T') is added to the scores.
    """
    beams, width, inner = shape.rows, shape.width, shape.heads * shape.width
    length, room = keys_and_values.size // (shape.users * 2 * inner), hidden.size // shape.users
    together = max(1, BLOCK // beams)
    normed = np.empty(together * beams * shape.depth, np.float32)
    queries = np.empty(together * beams * inner, np.float32)
    attended = np.empty(together * beams * inner, np.float32)
    weights, zeros = np.empty(beams * room, np.float32), np.zeros(inner, np.float32)
    for first in range(0, shape.users, together):
        count, at = min(together, shape.users - first), first * beams * shape.depth
        _projected(
            states, at, count * beams, shape.depth, projection, inner, epsilon, NONE, normed, zeros, queries, 0
        )  # fmt: skip
        for user in range(count):
            for head in range(shape.heads):
                there, at = first + user, user * beams * inner + head * width
                _attended(
                    beams, length, width, Rows(queries, at, inner),
                    Rows(keys, (there * shape.heads + head) * width * room, room),
                    Rows(keys_and_values, (2 * there * length + 1) * inner + head * width, 2 * inner),
                    Rows(hidden, there * room, 0), weights, zeros, Rows(attended, at, inner),
                )  # fmt: skip
        _output(shape, first, count, attended, output, states, out)


@_kernel(
    _NUMBERS, _SHAPE, _NUMBERS, _NUMBERS, _NUMBERS, _TOKENS, _NUMBERS, _NUMBERS, _COUNT, _TOKENS, _NUMBERS,
    types.float32, _NUMBERS,
)  # fmt: skip
def attend_to_past(
    states: Floats, shape: Shape, projection: Floats, output: Floats, ready: Floats, tokens: Tokens, keys: Floats,
    values: Floats, read: int, paths: Tokens, distances: Floats, epsilon: float, out: Floats,
) -> None:  # fmt: skip
    """Make out (U, k, D) = states + what a beam's attention makes of its path; the rows of shape are beams.

    Queries, keys and values are projections of the normed states, or, where it is not empty, those that ready
    (V, 3, H, d) has for tokens (U, k). Keys and values (U, S, H, d) of earlier tokens stand in their slots; those of
    the beams are put into the slots read, read + 1, ... paths (U, k, steps) are the slots of a beam's tokens, its own
    the last, and the last ones of distances (H, at least steps) are added to the scores.
    """
    beams, width, inner = shape.rows, shape.width, shape.heads * shape.width
    slots, steps = keys.size // (shape.users * inner), paths.size // (shape.users * beams)
    room, longest = _lanes_for(steps), distances.size // shape.heads
    together = max(1, BLOCK // beams)
    normed = np.empty(together * beams * shape.depth, np.float32)
    projected = np.empty(together * beams * 3 * inner, np.float32)
    attended, zeros = np.empty(together * beams * inner, np.float32), np.zeros(3 * inner, np.float32)
    weights, nowhere = np.empty(shape.heads * room, np.float32), np.full(shape.heads * room, NONE)
    for first in range(0, shape.users, together):
        count = min(together, shape.users - first)
        _queries_keys_values(
            states, shape, first, count, projection, ready, tokens, epsilon, normed, zeros, projected
        )  # fmt: skip
        for user in range(count):
            memory = (first + user) * slots
            for beam in range(beams):
                row, to = (user * beams + beam) * 3 * inner, (memory + read + beam) * inner
                _scale(ONE, projected, row + inner, keys, to, inner)
                _scale(ONE, projected, row + 2 * inner, values, to, inner)
            for beam in range(beams):
                row, to = (user * beams + beam) * 3 * inner, (user * beams + beam) * inner
                path = ((first + user) * beams + beam) * steps
                _scale(ONE, nowhere, 0, weights, 0, nowhere.size)
                for step in range(steps):
                    there, distance = (memory + paths[path + step]) * inner, longest - steps + step
                    for head in range(shape.heads):
                        at = head * width
                        score = _dot(projected, row + at, keys, there + at, width)
                        weights[head * room + step] = score + distances[head * longest + distance]
                for head in range(shape.heads):
                    _softmax(weights, head * room, room)
                _scale(ONE, zeros, 0, attended, to, inner)
                for step in range(steps):
                    there = (memory + paths[path + step]) * inner
                    for head in range(shape.heads):
                        at = head * width
                        _add(weights[head * room + step], values, there + at, attended, to + at, width)
        _output(shape, first, count, attended, output, states, out)


@_kernel(_NUMBERS, _COUNT, _NUMBERS, _NUMBERS, _TOKENS, _NUMBERS)
def log_probabilities(
    finished: Floats, depth: int, weights: Floats, start: Floats, tokens: Tokens, out: Floats
) -> None:
    """Make out (..., W) the logarithms of the shares that tokens (..., W) have in softmax(start + finished weights).

    finished is (..., D), start (V'), where V' is a multiple of 16.
    """
    rows, columns = finished.size // depth, start.size
    wanted = tokens.size // rows
    logits = np.empty(FEW * columns, np.float32)
    for first in range(0, rows, FEW):
        count = min(FEW, rows - first)
        _product(
            count, columns, depth, Rows(finished, first * depth, depth), Rows(weights, 0, 0), Rows(start, 0, 0),
            Rows(logits, 0, columns), NONE,
        )  # fmt: skip
        for row in range(count):
            at, to = row * columns, (first + row) * wanted
            for i in range(wanted):
                out[to + i] = logits[at + tokens[to + i]]
            largest = _largest(logits, at, columns)
            total = largest + np.log(_exponentials(logits, at, columns, largest))
            for i in range(wanted):
                out[to + i] -= total
