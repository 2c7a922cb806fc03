"""The rule for collisions, against the same rule written plainly with dictionaries and sorting."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.plain_collisions import resolved_plainly
from tessera.codes import collisions as module
from tessera.codes.collisions import Paths, add_code, packed, reassign, require_distinct, resolve, respread
from tessera.codes.uniform import PUBLISHED, Sinkhorn
from tessera.errors import DataError


def random_paths(seed, *, items, levels, size, width=3, spread=None):
    """Return random codes, crowded into the first `spread` of each level, and random residuals and codebooks."""
    draw = np.random.default_rng(seed)
    return Paths(
        draw.integers(0, spread or size, size=(items, levels)),
        draw.normal(size=(items, width)).astype(np.float32),
        draw.normal(size=(levels, size, width)).astype(np.float32),
    )


def names(count):
    return [f"B{number:04d}" for number in range(count)]


@st.composite
def crowds(draw):
    """Return paths with many collisions, most of which the rule can resolve."""
    depth, size = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    room = size ** min(depth, 2)
    items = draw(st.integers(1, room if draw(st.booleans()) else 3 * room))
    spread = draw(st.integers(1, size))
    return random_paths(draw(st.integers(0, 2**31)), items=items, levels=depth, size=size, spread=spread)


def test_last_level_by_hand():
    # Codes at 0, 1 and 3; three items of code 0, at 0.2, 0.1 and 0.9.
    paths = Paths(np.array([[0], [0], [0]]), np.float32([[0.2], [0.1], [0.9]]), np.float32([[[0], [1], [3]]]))
    # Item 1 is nearest and keeps 0; item 0 comes next and takes 1; item 2 would have liked 1, and takes 3.
    assert reassign(paths, names=names(3)).tolist() == [[1], [0], [2]]


def test_second_last_level_by_hand():
    codebooks = np.float32([[[0], [10], [4]], [[0], [1], [9]]])
    codes = np.array([[0, 0], [0, 1], [0, 2], [0, 0], [2, 1]])
    residuals = np.float32([[0], [1], [9], [0.8], [5]])
    # [0, _] is full. Item 3 goes to the next nearest second-last code, 2 (at 4), and there likes 1 (at 1), which item 4
    # holds, and then 0 (at 0).
    assert reassign(Paths(codes, residuals, codebooks), names=names(5)).tolist() == [
        [0, 0],
        [0, 1],
        [0, 2],
        [2, 0],
        [2, 1],
    ]


def test_an_item_that_must_leave_precedes_those_of_later_groups():
    """A group's leaver takes a code that the next bucket's own item would have had, since groups come in order."""
    codebooks = np.float32([[[0], [1]], [[0], [1]]])
    codes = np.array([[0, 0], [0, 0], [0, 0], [1, 0]])
    residuals = np.float32([[0], [0.1], [0.2], [1]])
    found = reassign(Paths(codes, residuals, codebooks), names=names(4))
    assert found.tolist() == [[0, 0], [0, 1], [1, 1], [1, 0]]


def test_of_equally_near_items_the_first_keeps_the_code_and_of_equally_near_codes_the_first_is_taken():
    paths = Paths(np.array([[1], [1], [1]]), np.zeros((3, 1), np.float32), np.float32([[[2], [0], [-2]]]))
    assert reassign(paths, names=names(3)).tolist() == [[1], [0], [2]]


def test_without_distances_the_order_of_codes_decides():
    paths = Paths(np.array([[0, 2], [0, 2], [0, 2]]), np.empty((3, 0), np.float32), np.empty((2, 3, 0), np.float32))
    assert reassign(paths, names=names(3)).tolist() == [[0, 2], [0, 0], [0, 1]]


def test_codes_without_a_place_come_last_in_their_order():
    codebook = np.float32([[np.nan], [0], [np.nan], [5]])
    paths = Paths(np.array([[1], [1], [1], [1]]), np.zeros((4, 1), np.float32), codebook[None])
    assert reassign(paths, names=names(4)).tolist() == [[1], [3], [0], [2]]


@settings(deadline=None, max_examples=300)
@given(crowds())
def test_it_is_the_rule(paths):
    expected, homeless = resolved_plainly(paths)
    if homeless:
        with pytest.raises(DataError, match=f"found none for {len(homeless)}: {names(999)[homeless[0]]}"):
            reassign(paths, names=names(len(expected)))
    else:
        assert reassign(paths, names=names(len(expected))).tolist() == [list(code) for code in expected]


@settings(deadline=None, max_examples=20)
@given(crowds(), st.integers(1, 9))
def test_blocks_do_not_change_the_result(paths, rows):
    _, homeless = resolved_plainly(paths)
    assume(not homeless)
    whole = reassign(paths, names=names(len(paths.codes)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", rows * paths.codebooks.shape[1])
        assert np.array_equal(reassign(paths, names=names(len(paths.codes))), whole)


WIDE = 20  # numbers of a residual from which 32 bits are asked first, where there are enough of them


def in_32_bits_first(paths, **options):
    """Return what reassign does where even these few residuals are enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LONG", 0)
        return reassign(paths, names=names(len(paths.codes)), **options)


@st.composite
def wide_crowds(draw):
    """Return paths whose residuals are wide, of any scale, some codes without a place and some with the same."""
    found = draw(crowds())
    depth, size, _ = found.codebooks.shape
    numbers = np.random.default_rng(draw(st.integers(0, 2**31)))
    scale = np.float32(10) ** draw(st.sampled_from([0, 0, 0, -30, -22, -18, -12, 10, 14, 15, 17, 18]))
    residuals, codebooks = (
        (numbers.normal(size=(*shape, WIDE)) * scale).astype(np.float32)
        for shape in (found.residuals.shape[:1], (depth, size))
    )
    for level in range(depth):
        codebooks[level, draw(st.integers(0, size - 1))] = codebooks[level, draw(st.integers(0, size - 1))]
    if draw(st.booleans()):
        codebooks[-1, draw(st.integers(0, size - 1))] = np.nan
    return Paths(found.codes, residuals, codebooks)


@settings(deadline=None, max_examples=300)
@given(wide_crowds())
def test_wide_residuals_of_any_scale_go_where_the_plain_rule_sends_them(paths):
    expected = resolved_plainly(paths)
    assume(not expected.homeless)
    assert list(map(tuple, in_32_bits_first(paths).tolist())) == expected.codes


@pytest.mark.parametrize("movers", [32_766, 32_767, 32_768])
def test_as_many_movers_as_16_bits_can_number(movers):
    """Each but the first of a group of four has to move, and the last two levels have room for all."""
    draw = np.random.default_rng(0)
    groups = -(-movers // 3)
    codes = np.column_stack([np.arange(groups), draw.integers(0, 4, (groups, 2))]).repeat(4, axis=0)[: movers + groups]
    size = groups  # the first level's codes; the others use few
    codebooks = np.full((3, size, 2), np.nan, np.float32)
    codebooks[1:, :8] = draw.normal(size=(2, 8, 2))
    paths = Paths(codes, draw.normal(size=(len(codes), 2)).astype(np.float32), codebooks)
    found = reassign(paths, names=names(len(codes)))
    assert len(codes) - len(np.unique(packed(codes, size=size))) == movers
    require_distinct(found, names=names(len(found)))
    some = slice(0, 400)
    alone = paths._replace(codes=codes[some], residuals=paths.residuals[some])
    assert list(map(tuple, found[some].tolist())) == resolved_plainly(alone).codes


def test_items_whose_code_has_no_place_are_equally_far_from_it():
    codebook = np.arange(256, dtype=np.float32)[:, None]
    codebook[0] = np.nan
    paths = Paths(np.zeros((200, 1), np.int64), np.ones((200, 1), np.float32), codebook[None])
    assert reassign(paths, names=names(200))[:, 0].tolist() == list(range(200))


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_residuals_that_are_no_numbers_end_in_an_error(number):
    paths = Paths(np.zeros((3, 1), np.int64), np.full((3, 1), number, np.float32), np.float32([[[0], [1], [2]]]))
    with pytest.raises(DataError, match="residuals: expected finite numbers"):
        reassign(paths, names=names(3))


def test_a_fixed_item_stays_though_another_is_nearer():
    paths = Paths(np.zeros((2, 1), np.int64), np.float32([[0.4], [0.0]]), np.float32([[[0], [1]]]))
    assert reassign(paths, names=names(2)).tolist() == [[1], [0]]
    assert reassign(paths, names=names(2), fixed=1).tolist() == [[0], [1]]


@pytest.mark.parametrize("other", [1000.9999, 1001.0001])
def test_64_bits_decide_where_32_cannot(other):
    """One of two items finds a code at a distance of 0.5 and another one nearly as far away."""
    codebook = np.zeros((4, WIDE), np.float32)
    codebook[:, 0] = [1000.5, other, 1000.0, 3000.0]
    residuals = np.zeros((2, WIDE), np.float32)
    residuals[:, 0] = 1000.5
    paths = Paths(np.zeros((2, 1), np.int64), residuals, codebook[None])
    rough, errors = module._Distances(codebook).roughly(paths.residuals)
    exact = module._Distances(codebook).of(paths.residuals)
    assert 0 < abs(exact[0, 1] - exact[0, 2]) < errors[0]
    assert np.abs(rough - exact).max() < errors[0]
    expected = [(0,), (1 if other < 1001 else 2,)]
    assert list(map(tuple, in_32_bits_first(paths).tolist())) == resolved_plainly(paths).codes == expected


@settings(deadline=None, max_examples=50)
@given(wide_crowds())
def test_rounding_is_bounded(paths):
    distances = module._Distances(paths.codebooks[-1])
    rough, errors = distances.roughly(paths.residuals)
    exact = distances.of(paths.residuals)
    placed = ~np.isnan(paths.codebooks[-1].sum(axis=1))
    bounded = np.isfinite(errors)
    assert (np.abs(rough - exact)[bounded][:, placed] <= errors[bounded, None] / 2).all()


@settings(deadline=None, max_examples=20)
@given(wide_crowds())
def test_nothing_but_the_time_depends_on_how_much_is_computed_exactly(paths):
    _, homeless = resolved_plainly(paths)
    assume(not homeless)
    assert np.array_equal(in_32_bits_first(paths), reassign(paths, names=names(len(paths.codes))))


@settings(deadline=None, max_examples=100)
@given(crowds())
def test_what_holds_afterwards(paths):
    _, homeless = resolved_plainly(paths)
    assume(not homeless)
    found = reassign(paths, names=names(len(paths.codes)))
    require_distinct(found, names=names(len(found)))
    assert np.array_equal(found[:, :-2], paths.codes[:, :-2])
    assert {tuple(code) for code in paths.codes.tolist()} <= {tuple(code) for code in found.tolist()}
    again = reassign(paths._replace(codes=found), names=names(len(found)))
    assert np.array_equal(again, found)


@settings(deadline=None, max_examples=50)
@given(crowds(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(paths, random):
    _, homeless = resolved_plainly(paths)
    assume(not homeless)
    found = reassign(paths, names=names(len(paths.codes)))
    order = list(range(len(found)))
    random.shuffle(order)
    shuffled = Paths(paths.codes[order], paths.residuals[order], paths.codebooks)
    assert np.array_equal(reassign(shuffled, names=names(len(order))), found[order])


def test_a_thousand_items_equal_the_rule():
    for seed, (levels, size, spread) in enumerate([(4, 32, 3), (2, 32, 9), (3, 16, 2)]):
        paths = random_paths(seed, items=400 if size == 16 else 1000, levels=levels, size=size, spread=spread)
        expected, homeless = resolved_plainly(paths)
        assert not homeless
        assert reassign(paths, names=names(1000)).tolist() == [list(code) for code in expected]


def test_the_codes_given_are_left_alone():
    paths = random_paths(0, items=20, levels=3, size=8, spread=2)
    before = paths.codes.copy()
    reassign(paths, names=names(20))
    assert np.array_equal(paths.codes, before)


def test_no_items():
    assert reassign(random_paths(0, items=0, levels=3, size=4), names=[]).shape == (0, 3)


def test_too_many_items_for_the_codes_are_counted_and_named():
    paths = Paths(np.zeros((6, 3), np.int64), np.zeros((6, 1), np.float32), np.float32([[[0], [1]]] * 3))
    with pytest.raises(
        DataError,
        match=r"quant.codebook_size: expected an ID for each of 6 items, found none for 2: B0004, B0005; "
        r"2 codes on 2 levels make 4 IDs, and up to 6 items have the same first 1 codes",
    ):
        reassign(paths, names=names(6))
    with pytest.raises(DataError, match=r"B0005; 2 codes on 1 levels make 2 IDs$"):
        reassign(Paths(paths.codes[:, :1], paths.residuals, paths.codebooks[:1]), names=names(6))


@settings(deadline=None)
@given(st.integers(1, 6), st.sampled_from([2, 7, 65536]), st.integers(0, 2**31))
def testpacked_are_ordered_as_codes_are(levels, size, seed):
    draw = np.random.default_rng(seed)
    codes = draw.integers(0, size, size=(30, levels))
    codes[draw.integers(0, 30, size=10)] = codes[:10]
    codes[10:20, :-1] = codes[20:, :-1]
    places = packed(codes, size=size)
    rows = codes.tolist()
    assert sorted(range(30), key=lambda item: (rows[item], item)) == np.argsort(places, kind="stable").tolist()
    assert all((rows[a] == rows[b]) == (places[a] == places[b]) for a in range(30) for b in range(30))
    assert np.array_equal(places % size, codes[:, -1])
    if levels > 1:
        assert np.array_equal(places // size % size, codes[:, -2])


class TestExtraCode:
    def test_by_hand(self):
        codes = np.array([[4, 1], [7, 0], [4, 1], [4, 1]])
        assert add_code(codes, size=3, names=names(4)).tolist() == [[4, 1, 0], [7, 0, 0], [4, 1, 1], [4, 1, 2]]

    @settings(deadline=None)
    @given(crowds())
    def test_ids_are_distinct_and_the_first_codes_stay(self, paths):
        size = max(len(paths.codes), paths.codebooks.shape[1])
        found = add_code(paths.codes, size=size, names=names(len(paths.codes)))
        require_distinct(found, names=names(len(found)))
        assert np.array_equal(found[:, :-1], paths.codes)
        for code in {tuple(row) for row in paths.codes.tolist()}:
            members = found[(paths.codes == code).all(axis=1), -1]
            assert members.tolist() == list(range(len(members)))

    def test_more_items_than_a_level_has_codes(self):
        with pytest.raises(DataError, match=r"at most 2 items with the same codes, .* found 3: B0000, B0002, B0003$"):
            add_code(np.array([[4], [7], [4], [4]]), size=2, names=names(4))


class TestDistinct:
    def test_it_can_fail(self):
        with pytest.raises(DataError, match=r"for each of 4 items, found 2 that have another's: B0002, B0003$"):
            require_distinct(np.array([[1, 2], [3, 4], [1, 2], [3, 4]]), names=names(4))

    def test_it_can_pass(self):
        codes = np.array([[1, 2], [2, 1]])
        require_distinct(codes, names=names(2))
        assert codes.tolist() == [[1, 2], [2, 1]]

    def test_resolve_checks_what_its_rule_returns(self, monkeypatch):
        monkeypatch.setattr(module, "reassign", lambda paths, **_: paths.codes)
        with pytest.raises(DataError, match="found 1 that have another's: B0001"):
            resolve(random_paths(0, items=2, levels=1, size=2, spread=1), rule="reassign", names=names(2))


def test_each_rule_by_its_name():
    paths = Paths(np.array([[0], [0]]), np.float32([[0], [0]]), np.float32([[[0], [1]]]))
    assert resolve(paths, rule="none", names=names(2)).tolist() == [[0], [0]]
    assert resolve(paths, rule="reassign", names=names(2)).tolist() == [[0], [1]]
    assert resolve(paths, rule="uniform", names=names(2)).tolist() == [[0], [1]]
    assert resolve(paths, rule="extra_code", names=names(2)).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("rule", ["reassign", "uniform"])
def test_an_item_that_borrows_a_path_gives_way_to_one_that_comes_with_it(rule):
    """Item 0 has its ID for good; item 1 borrows its path, and item 2 has that path of its own."""
    paths = Paths(np.zeros((3, 1), np.int64), np.zeros((3, 1), np.float32), np.float32([[[0], [1], [2]]]))
    present = np.array([True, False, True])
    assert resolve(paths, rule=rule, names=names(3), present=present, fixed=1).tolist() == [[0], [2], [1]]


class TestUniform:
    """LC-Rec's rule, and the distance rule for what it leaves."""

    def test_a_group_shares_the_last_level_out_by_hand(self):
        # After the first level's code at 10, residuals of 0.8, 1.0 and 2.9: each has a last-level code beside it.
        paths = Paths(
            np.array([[0, 1], [0, 1], [0, 1], [1, 0]]),
            np.float32([[10.8], [11.0], [12.9], [0.1]]),
            np.float32([[[10], [0], [50]], [[0], [1], [3]]]),
        )
        assert respread(paths, sinkhorn=PUBLISHED).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0]]

    def test_what_has_no_collision_stays(self):
        paths = random_paths(0, items=30, levels=3, size=4)
        paths = paths._replace(codes=np.array([[n // 16, n // 4 % 4, n % 4] for n in range(30)]))
        assert np.array_equal(respread(paths, sinkhorn=PUBLISHED), paths.codes)

    @settings(deadline=None, max_examples=60)
    @given(crowds())
    def test_only_last_codes_change(self, paths):
        codes = respread(paths, sinkhorn=PUBLISHED)
        assert np.array_equal(codes[:, :-1], paths.codes[:, :-1])
        assert codes.min() >= 0
        assert codes.max() < paths.codebooks.shape[1]

    def test_most_collisions_are_gone_where_there_is_room(self):
        paths = random_paths(0, items=400, levels=2, size=64, spread=8)
        found = respread(paths, sinkhorn=PUBLISHED)
        assert len(np.unique(found, axis=0)) > 1.5 * len(np.unique(paths.codes, axis=0))

    def test_blocks_do_not_change_the_result(self, monkeypatch):
        paths = random_paths(0, items=300, levels=2, size=32, spread=6)
        whole = respread(paths, sinkhorn=PUBLISHED)
        monkeypatch.setattr(module, "SHARES", 1)
        assert np.array_equal(respread(paths, sinkhorn=PUBLISHED), whole)

    def test_equal_items_stay_together_until_the_distance_rule_parts_them(self):
        paths = Paths(np.array([[1], [1], [1]]), np.zeros((3, 1), np.float32), np.float32([[[2], [0], [-2]]]))
        assert respread(paths, sinkhorn=PUBLISHED).tolist() == [[1], [1], [1]]
        assert resolve(paths, rule="uniform", names=names(3)).tolist() == [[1], [0], [2]]

    def test_codes_without_a_place_are_not_given(self):
        paths = random_paths(1, items=20, levels=1, size=8, spread=1)
        paths.codebooks[0, [2, 5]] = np.nan
        assert not set(respread(paths, sinkhorn=PUBLISHED).ravel().tolist()) & {2, 5}

    def test_without_distances_everything_stays(self):
        paths = Paths(np.zeros((3, 2), np.int64), np.empty((3, 0), np.float32), np.empty((2, 3, 0), np.float32))
        assert not respread(paths, sinkhorn=PUBLISHED).any()

    def test_items_that_borrow_a_path_have_no_part_in_the_sharing(self, monkeypatch):
        paths = random_paths(2, items=12, levels=2, size=8, spread=2)
        lent = paths._replace(codes=paths.codes.repeat(2, axis=0), residuals=paths.residuals.repeat(2, axis=0))
        monkeypatch.setattr(module, "reassign", lambda paths, **_: paths.codes)
        monkeypatch.setattr(module, "require_distinct", lambda *_, **__: None)
        found = resolve(lent, rule="uniform", names=names(24), present=np.arange(24) % 2 == 0)
        assert np.array_equal(found[::2], respread(paths, sinkhorn=PUBLISHED))
        assert np.array_equal(found[1::2], paths.codes)

    def test_the_iterations_matter(self):
        paths = random_paths(3, items=60, levels=1, size=64, spread=1)
        found = [respread(paths, sinkhorn=Sinkhorn(epsilon, n)) for epsilon, n in ((0.003, 50), (0.003, 1), (0.5, 50))]
        assert not np.array_equal(found[0], found[1])
        assert not np.array_equal(found[0], found[2])
