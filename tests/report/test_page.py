import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from tessera.errors import DataError
from tessera.report.agreement import Agreement, Cell
from tessera.report.categories import LevelAgreement
from tessera.report.code_use import Codes, Level
from tessera.report.collided import Collided, Group, Placed
from tessera.report.content import About, Bar, Data, Ranking, Sample, Slice, Slices
from tessera.report.curves import Curves, Point
from tessera.report.examples import Entry, Example, Recommended
from tessera.report.losses import Kept, Loss
from tessera.report.neighbours import Neighbour, Neighbours, Query, SameCode, Shared
from tessera.report.origin import File, Origin, Run, Version
from tessera.report.page import (
    Content,
    charts_of,
    duration,
    html_page,
    hues_of,
    markdown_page,
    megabytes,
    shown_keys,
)
from tessera.report.pictures import Pictures
from tessera.report.semantic_ids import SemanticIds
from tessera.report.tree import Item, tree_of
from tessera.usage import Level as Use
from tests.finished_run import HOSTILE

MEASURES = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr")
BAR = Bar(0.25, 0.2, 0.3)
VOID = {"meta", "img"}
LIBRARY = "window.vegaEmbed = 1 < 2 && 3;"
NO_IDS = SemanticIds([], None, 0, {}, {}, [], 0)


def ranking(name, value, *, is_final=False):
    values = dict.fromkeys(MEASURES, value)
    bars = {"hr@10": BAR, "ndcg@10": BAR}
    return Ranking(name, is_final, values, dict.fromkeys(MEASURES, value / 2), bars, times_floor=2.5)


def entry(key, title=None, *, is_target=False, is_seen=False):
    return Entry(key, f"Thing {key}" if title is None else title, is_target=is_target, is_seen=is_seen)


def content(title=None, **changes):
    entries = [entry(f"k{place}", title, is_target=place == 2, is_seen=place == 1) for place in range(4)]
    recommended = Recommended("text", 2, 20, [entries[1], entries[2], entries[3]])
    alone = Cell("only", 0, 0.0, None, [])
    both, neither = Cell("both", 30, 0.375, 0.75, [entries[0]]), Cell("neither", 50, 0.625, None, [])
    part = Slice("0-3", 9, True, {"text": 0.5, "popularity": 0.25})
    items = [Item(f"k{place}", entries[place % 4].title, title or "Mugs", [place % 2, place]) for place in range(30)]
    whole = Content(
        about=About("macrec", "demo", "builtin", "small", ["text"], 5),
        sample=Sample(1234, 0.95, 1000),
        rankings=[ranking("text", 0.25, is_final=True), ranking("popularity", 0.1)],
        cuts=[
            {"ranking": name, "k": k, "hr": 0.1 * k, "ndcg": 0.05 * k}
            for name in ("text", "popularity")
            for k in (1, 2)
        ],
        slices=[Slices("items in the history", [part])],
        examples=[Example("U7", entries[:2], 3, entries[2], [recommended])],
        agreements=[Agreement(("text", "image"), 0.125, 12, [both, alone, alone, neither])],
        ids=SemanticIds(
            codes=[Codes("text", 2.38, 0.0, 42, [Level(3, 5, 2.5, [9, 4, 1], Use(2, 1.5, 0.6))])],
            category_depth=1,
            categorised=4,
            categories={"text": [LevelAgreement(0, 3, 0.5, 0.25, 0.4, 0.1)]},
            trees={"text": tree_of(items)},
            collided=[Collided("text", 8, 17, [Group([1, 1], 4, [Placed("k1", entries[1].title, [1, 2], True)])])],
            lent=3,
        ),
        neighbours=Neighbours(
            567,
            500,
            0.0177,
            [Shared(("text", "image"), 0.111)],
            [SameCode("text", 0.8, 0.1)],
            [Query("k0", entries[0].title, {"text": [Neighbour("k3", entries[3].title, 0.75, elsewhere=True)]})],
        ),
        curves=[Curves("curve-0", "T5: loss", "loss", [Point("training", 1, 2.5), Point("training", 2, 1.5)])],
        data=Data(1234, 567, 8901, 0.98765, 7.25, 0.125),
        kept=[
            Kept(
                "filter_reviews", {"users": 1234}, [Loss("filter_reviews", "fewer than k", {"users": 1, "items": 3456})]
            )
        ],
        lacking={"image": 12},
        mismatches={"items": (568, 567)},
        origin=Origin(
            [Run("train_t5", 92.0, 61.5, 300 * 2**20, None, 1, "2026-01-02T03:04:05+00:00")],
            ["A Processor, 2 cores"],
            [Version("polars", ["2.1.0"])],
            [("", [("seed", "5")]), ("quant", [("lr", "0.001")])],
            [File("data/ids.parquet", 1234, "0123abc")],
        ),
        pictures=Pictures(["data:image/webp;base64,AAAA"], {"k0": 0}, frozenset({"k3"})),
    )
    return whole._replace(**changes)


def page_of(whole):
    return html_page(whole, library=LIBRARY)


class Page(HTMLParser):
    """Collects the tags, texts and attributes of a page, and sees that every tag is closed in its turn."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.texts, self.attributes = [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open[-1:] not in (["script"], ["style"]):
            self.texts.append(text.strip())

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def test_a_confidence_keeps_its_digits():
    near = content(sample=Sample(1234, 0.999, 1000))
    for page in (Page(page_of(near)).text, markdown_page(near)):
        assert "99.9% of 1,000 bootstrap resamples" in page


def test_the_page_says_what_it_must():
    text = Page(page_of(content())).text
    for words in (
        "macrec on demo",
        "For 25.0% of 1,234 users",
        "2.5 times",
        "0.2000 to 0.3000",
        "95% of 1,000 bootstrap resamples",
        "9, which is few",
        "1 users of the test split, drawn with seed 5",
        "(3 earlier not shown)",
        "text recommends ✓ rank 2",
        "no picture",
        "not shown",
        "12.5% are the same (the mean over 12 users who have both)",
        "37.5% of the users, 30; the ensemble finds it for 75% of them.",
        "Collision rate 2.38% before resolution, 0.00% after it; 42 items moved",
        "3 codes used, 5 dead",
        "perplexity 2.5, at most 9 items a code; before resolution 2 used, perplexity 1.5",
        "4 of 567 items have one",
        "15 items 100% Mugs",
        "17 items had an ID that others had too, in 8 groups; the largest 1 are shown",
        "1-1 4 items, 1 shown",
        "→ 1-2",
        "11.1% are among its nearest by image too; by chance it would be 1.8%",
        "By text, 80.0% of an item's nearest have its first code, and 10.0% of all items.",
        "98.77%",
        "1 user, 3,456 items fewer than k",
        "This known data set has 568 items as published; here are 567.",
        "1:32 min in all",
        "train_t5 1:32 min 1:02 min 300 MB \N{EN DASH} 1",
        "quant lr 0.001",
        "polars 2.1.0",
        "data/ids.parquet 1,234 0123abc",
    ):
        assert words in text, words


def test_the_policy_allows_the_scripts_of_the_page_and_no_others():
    page = page_of(content())
    parsed = Page(page)
    assert not {"link", "iframe", "object", "form"} & set(parsed.tags)
    (policy,) = (value for name, value in parsed.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy.split("script-src ")[1].split() == [f"'sha256-{each}'" for each in hashes]
    assert scripts[0] == LIBRARY
    assert not {name for name, _ in parsed.attributes if name in ("src", "href") or name.startswith("on")} - {"href"}
    assert all(value.startswith("#") for name, value in parsed.attributes if name == "href")
    assert not re.search(r"url\(|@import", page)


def test_a_library_that_would_end_its_element_is_refused():
    with pytest.raises(DataError, match="script of the report"):
        html_page(content(), library="x = '</SCRIPT>'")


def drawn_of(page):
    return json.loads(re.search(r'<script type="application/json" id="drawn">(.*?)</script>', page, re.DOTALL)[1])


def rows_of(chart):
    """What a chart draws: Altair keeps it beside the specification, under a name made of it."""
    return chart["datasets"][chart["data"]["name"]]


def test_every_chart_and_picture_that_the_page_asks_for_is_in_it():
    page = page_of(content())
    parsed, drawn = Page(page), drawn_of(page)
    assert {value for name, value in parsed.attributes if name == "data-chart"} == set(drawn["charts"])
    assert {value for name, value in parsed.attributes if name == "data-picture"} == {"0"}
    assert drawn["pictures"] == ["data:image/webp;base64,AAAA"]


def test_charts_hold_the_numbers():
    charts = charts_of(content())
    bars = rows_of(charts["headline-hr@10"])
    assert bars[0] == {"ranking": "text", "value": 0.25, "low": 0.2, "high": 0.3}
    assert rows_of(charts["codes-text-0"]) == [
        {"place": place, "items": items} for place, items in enumerate([9, 4, 1, 0, 0, 0, 0, 0], 1)
    ]
    assert rows_of(charts["slices-0"])[0] == {
        "slice": "0-3",
        "ranking": "text",
        "value": 0.5,
        "users": 9,
        "few": True,
    }
    assert {row["value"] for row in rows_of(charts["categories-nmi"])} == {0.4, 0.1}
    assert charts == charts_of(content()), "the same each time"


def test_a_training_of_one_epoch_is_drawn_as_points():
    curve = Curves("curve-0", "Loss", "loss", [Point("training", 1, 2.0)])
    assert charts_of(content(curves=[curve]))["curve-0"]["mark"]["point"]
    longer = curve._replace(points=[*curve.points, Point("training", 2, 1.0)])
    assert not charts_of(content(curves=[longer]))["curve-0"]["mark"]["point"]


def test_no_two_rankings_of_an_ensemble_share_a_colour():
    names = ["text", "image", "collaborative", "joint", "itemknn", "slist", "als", "bpr", "sasrec"]
    hues = hues_of(content(rankings=[ranking(name, 0.1) for name in names]))
    assert len({hues[name] for name in names}) == len(names)
    page = page_of(content())
    for hue in {hues[name] for name in names}:
        assert f".{hue} {{ --hue: var(--{hue}); }}" in page
        assert page.count(f"--{hue}: #") == 3, "on light, dark and paper"


def test_a_system_without_ids_says_nothing_of_them():
    whole = content(ids=NO_IDS, agreements=[], neighbours=None, curves=[], cuts=[])
    page = page_of(whole)
    assert not {"codes", "tree", "collided", "neighbours", "training", "agreement"} & sections(page)
    assert {"results", "slices", "users", "data", "origin"} <= sections(page)
    assert "semantic IDs" not in Page(page).text
    assert "Semantic IDs" not in markdown_page(whole)


def test_the_way_to_each_section_leads_there():
    page = page_of(content())
    assert {value[1:] for name, value in Page(page).attributes if name == "href"} == sections(page)


def sections(page):
    return set(re.findall(r'<section id="(\w+)">', page))


def test_without_categories_the_tree_says_so():
    page = page_of(content(ids=content().ids._replace(categories={}, category_depth=None)))
    assert "gives its items no categories" in Page(page).text
    assert "categories-purity" not in page


def test_what_a_large_tree_leaves_out_is_told():
    items = [Item(f"k{place}", "", "", [place % 40, place]) for place in range(2000)]
    page = page_of(content(ids=content().ids._replace(trees={"text": tree_of(items, shown=240)})))
    assert "30 smaller codes with 1,500 more items are not shown." in Page(page).text


def test_hits_and_seen_items_are_marked():
    marked = re.findall(r'<li class="item (\w*)">', page_of(content()).split('id="agreement"')[0])
    assert marked == ["", "", "target", "seen", "target", ""]


@pytest.mark.parametrize(
    ("rank", "shown", "badge"), [(None, 2, "not among the first 20"), (3, 3, "✓ rank 3"), (4, 2, "rank 4")]
)
def test_badge(rank, shown, badge):
    entries = [entry(f"k{place}", is_target=place == 2) for place in range(shown)]
    example = content().examples[0]._replace(recommended=[Recommended("text", rank, 20, entries)])
    assert f"text recommends {badge} " in Page(page_of(content(examples=[example]))).text


def test_hostile_titles_and_names_stay_text():
    about = content().about._replace(system=HOSTILE, dataset=HOSTILE)
    usual, hostile = page_of(content()), page_of(content(HOSTILE, about=about))
    parsed = Page(hostile)
    assert parsed.tags.count("script") == Page(usual).tags.count("script")
    assert len(parsed.tags) == len(Page(usual).tags)
    assert HOSTILE not in hostile
    assert parsed.texts.count(HOSTILE.strip()) > 10
    assert ("title", HOSTILE) in parsed.attributes


def test_what_charts_are_told_stays_data():
    hostile = "</script><script>alert(1)</script><!--"
    whole = content(curves=[Curves("curve-0", hostile, hostile, [Point(hostile, 1, 2.5)])])
    page = page_of(whole)
    assert Page(page).tags.count("script") == 3
    assert rows_of(drawn_of(page)["charts"]["curve-0"])[0]["name"] == hostile


def test_an_item_without_a_title_goes_by_its_key():
    example = content().examples[0]._replace(history=[entry("B77", "")])
    assert "B77" in Page(page_of(content(examples=[example]))).texts


def test_a_run_without_a_comparison_says_none():
    alone = [each._replace(times_floor=None) for each in content().rankings]
    page = page_of(content(rankings=alone, kept=[], lacking={}, mismatches={}, examples=[]))
    assert "times what" not in Page(page).text.split("How good")[1].split("Test split")[0]
    assert 'id="user"' not in page


def test_shown_keys_begin_with_what_the_examples_show():
    keys = shown_keys(content())
    assert keys[:4] == ["k0", "k1", "k2", "k3"]
    assert set(keys) == {f"k{place}" for place in range(30)}


def test_markdown_tables_are_whole():
    page = markdown_page(content())
    tables = re.findall(r"(?:^\|.*\|$\n)+", page, flags=re.MULTILINE)
    assert len(tables) == 8
    for table in tables:
        cells = {row.replace("\\|", "").count("|") for row in table.splitlines()}
        assert len(cells) == 1, table
    assert "| text | 0.2500 | 0.2500 | 0.2500 | 0.2500 | 0.2500 | 0.2500 | 0.2000 to 0.3000 | 2.50 |" in page
    assert "| text | 0.1250 | 0.1250 | 0.1250 | 0.1250 | 0.1250 | 0.1250 |" in page
    assert "| 0-3 | 9 | 0.5000 | 0.2500 |" in page
    assert "| text | 2.38% | 0.00% | 42 | 3 | 2 |" in page
    assert "| text | 0 | 3 | 0.500 | 0.250 | 0.400 | 0.100 |" in page
    assert "| filter_reviews | 1 user, 3,456 items | fewer than k |" in page
    assert "| 1,234 | 567 | 8,901 | 7.25 | 98.77% | 12.5% |" in page
    assert "Expected 568 items of this known data set, found 567." in page


def test_markdown_says_nothing_of_times():
    origin = content().origin
    slower = origin._replace(runs=[run._replace(seconds=7.0, finished="later") for run in origin.runs])
    assert markdown_page(content()) == markdown_page(content(origin=slower))


def test_markdown_names_are_no_markup():
    page = markdown_page(content(about=content().about._replace(dataset="a|b <i>\n# c")))
    assert page.splitlines()[0] == r"# macrec on a\|b \<i\> \# c"


@pytest.mark.parametrize(("seconds", "told"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (92, "1:32 min"), (7500, "2:05 h")])
def test_duration(seconds, told):
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("size", "told"), [(2**19, "0.5 MB"), (12 * 2**20, "12 MB"), (3 * 2**29, "1.5 GB"), (1000 * 2**20, "1,000 MB")]
)
def test_megabytes(size, told):
    assert megabytes(size) == told
