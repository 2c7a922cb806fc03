from hypothesis import given
from hypothesis import strategies as st

from tessera.report.tree import (
    LEAF,
    MOST_BRANCHES,
    Item,
    commonest,
    items_with_ids,
    shared_words,
    shown_of,
    tree_of,
    words_of,
)
from tests.finished_run import semantic_ids, shop_items


def item(number, *codes, title="", category=""):
    return Item(f"k{number}", title, category, list(codes))


def leaves(node):
    return [*node.leaves, *(leaf for each in node.nodes for leaf in leaves(each))]


def test_small_trees_are_lists():
    root = tree_of([item(0, 1, 2), item(1, 3, 4)])
    assert (root.code, root.items, root.nodes) == (None, 2, [])
    assert [leaf.key for leaf in root.leaves] == ["k0", "k1"]


def test_a_node_for_each_code_in_their_order():
    items = [item(number, number % 3, number) for number in range(3 * LEAF)]
    root = tree_of(items)
    assert [(node.code, node.items) for node in root.nodes] == [(0, LEAF), (1, LEAF), (2, LEAF)]
    assert {leaf.key for leaf in leaves(root)} == {each.key for each in items}
    assert root.items_left_out == root.nodes_left_out == 0


def test_items_with_the_same_id_are_a_list_whatever_their_number():
    root = tree_of([item(number, 5, 6) for number in range(2 * LEAF)])
    assert len(leaves(root)) == 2 * LEAF


def test_of_a_large_tree_the_largest_nodes_are_shown_and_the_rest_is_counted():
    items = [item(f"{code}-{place}", code, place) for code in range(100) for place in range(1 + code)]
    root = tree_of(items, shown=2 * LEAF * 10)
    assert [node.code for node in root.nodes] == list(range(90, 100))
    assert root.nodes_left_out == 90
    assert root.items_left_out == sum(1 + code for code in range(90))


@given(st.integers(0, 3000), st.integers(1, 40), st.integers(1, 3))
def test_every_item_is_shown_or_counted_and_there_is_a_bound(count, codes, levels):
    items = [item(number, *((number * 7**level) % codes for level in range(levels))) for number in range(count)]
    root = tree_of(items, shown=200)

    def check(node):
        assert node.items == sum(each.items for each in node.nodes) + len(node.leaves) + node.items_left_out
        assert len(node.nodes) <= max(MOST_BRANCHES, 200)
        for each in node.nodes:
            check(each)

    check(root)
    assert len(leaves(root)) <= 3 * 200
    assert len(leaves(root)) == count or count > 200


def test_the_commonest_category():
    assert commonest([item(0, category="b"), item(1, category="a"), item(2)]) == ("a", 0.5)
    assert commonest([item(0)]) == ("", 0)


def test_words_that_most_titles_share_and_few_others():
    titles = ["the Tea mug", "the tea jar", "the cup, tea", "the pot", "the pan", "the bed", "the tin"]
    items = [item(number, title=title) for number, title in enumerate(titles)]
    assert shared_words(items[:3], words_of(items)) == ["tea"]
    assert shared_words(items[:2], words_of(items)) == []


def test_items_with_ids_in_the_order_of_their_codes():
    items = items_with_ids(semantic_ids(("text",)), shop_items(), ["c"] * 40)
    assert [each.codes for each in items] == sorted(each.codes for each in items)
    assert items[3] == ("B0003", "Thing 3", "c", [0, 3, 7])


def test_what_is_seen_first_comes_first():
    items = [item(number, number % 2, number) for number in range(40)]
    keys = shown_of([tree_of(items)])
    assert len(keys) == len(set(keys)) == 40
    assert set(keys[:6]) <= {f"k{number}" for number in range(40)}
    assert keys == shown_of([tree_of(items)])


def test_every_tree_has_its_first_level_before_any_has_its_second():
    """Of 40 items the text's tree parts the even ones from the odd, the picture's the first 20 from the others."""
    text = tree_of([item(number, number % 2, number) for number in range(40)])
    image = tree_of([item(number, number // 20, number) for number in range(40)])
    firsts = [entry.key for tree in (text, image) for node in (tree, *tree.nodes) for entry in node.strip]
    keys = shown_of([text, image])
    assert set(keys[: len(set(firsts))]) == set(firsts)
    assert len(set(firsts)) < len(keys) == 40


def test_no_items():
    assert tree_of([]).items == 0
