import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.report.content import About, Bar, Codes, Data, Dropped, Level, Ranking, Sample, Slice, Slices
from tessera.report.examples import Entry, Example
from tessera.report.page import OUTLINE_POINTS, Content, html_page, markdown_page, outline
from tests.finished_run import HOSTILE

MEASURES = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr")
BAR = Bar(0.25, 0.5, 0.2, 0.3, 0.4, 0.6)
VOID = {"meta", "img", "path"}


def ranking(name, value, *, is_final=False):
    values = dict.fromkeys(MEASURES, value)
    bars = {"hr@10": BAR, "ndcg@10": BAR}
    return Ranking(name, is_final, values, dict.fromkeys(MEASURES, value / 2), bars, times_floor=2.5)


def content(**changes):
    entries = [Entry(f"k{place}", f"Thing {place}", is_target=place == 2, is_seen=place == 1) for place in range(4)]
    example = Example(7, entries[:2], 3, entries[2], 2, 20, [entries[1], entries[2], entries[3]])
    part = Slice("0-3", 9, True, {"text": 0.5, "popularity": 0.25}, {"text": 1.0, "popularity": 0.5})
    whole = Content(
        about=About("macrec", "demo", "builtin", "small", ["text"], 5),
        sample=Sample(1234, 0.95, 1000),
        rankings=[ranking("text", 0.25, is_final=True), ranking("popularity", 0.1)],
        data=Data(1234, 567, 8901, 0.98765, 7.25, 0.125),
        dropped=[Dropped("fewer than k interactions", 1, 2, 3456)],
        lacking={"image": 12},
        mismatches={"items": (568, 567)},
        codes=[Codes("text", 2.38, 0.0, 42, [Level(3, 2.5, [9, 4, 1])])],
        slices=[Slices("items in the history", [part])],
        examples=[example],
        pictures={"k0": "data:image/jpeg;base64,AAAA"},
    )
    return whole._replace(**changes)


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
        self.texts.append(text.strip())

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def test_the_page_says_what_it_must():
    text = Page(html_page(content())).text
    for words in (
        "macrec on demo",
        "For 25.0% of 1,234 users",
        "2.5 times",
        "0.2000 to 0.3000",
        "95% of 1,000 bootstrap resamples",
        "9 users, which is few",
        "2.38% of the IDs collided before resolution, 0.00% after it; 42 items moved",
        "3 codes, perplexity 2, at most 9 items a code",
        "98.77%",
        "fewer than k interactions 1 2 3,456",
        "This known data set has 568 items as published; here are 567.",
        "1 users of the test split, drawn with seed 5",
        "(3 earlier not shown)",
        "✓ rank 2",
        "no picture",
    ):
        assert words in text, words


def test_the_page_needs_nothing_else():
    page = html_page(content())
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "form"} & set(parsed.tags)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in parsed.attributes
    assert not re.search(r"https?:|url\(|@import", page)
    assert all(value.startswith("data:image/jpeg;base64,") for name, value in parsed.attributes if name == "src")


def test_hits_and_seen_items_are_marked():
    classes = [value.split() for name, value in Page(html_page(content())).attributes if name == "class"]
    marks = [each[1:] for each in classes if each[0] == "item"]
    assert marks == [[], [], ["target"], ["seen"], ["target"], []]


@pytest.mark.parametrize(("rank", "badge"), [(None, "not among the first 20"), (3, "✓ rank 3"), (4, "rank 4")])
def test_badge(rank, badge):
    example = content().examples[0]._replace(rank=rank)
    text = Page(html_page(content(examples=[example]))).text
    assert f"User 7 {badge} Had" in text


def test_hostile_titles_and_names_stay_text():
    hostile = Entry(HOSTILE, HOSTILE, is_target=False, is_seen=False)
    example = content().examples[0]._replace(history=[hostile], recommended=[hostile], target=hostile)
    about = content().about._replace(system=HOSTILE, dataset=HOSTILE)
    parsed = Page(html_page(content(examples=[example], about=about)))
    assert "script" not in parsed.tags
    assert parsed.texts.count(HOSTILE.strip()) == 5
    assert ("title", HOSTILE) in parsed.attributes


def test_an_item_without_a_title_goes_by_its_key():
    nameless = Entry("B77", "", is_target=False, is_seen=False)
    example = content().examples[0]._replace(history=[nameless])
    assert "B77" in Page(html_page(content(examples=[example]))).texts


def test_a_run_without_a_comparison_says_none():
    alone = [each._replace(times_floor=None) for each in content().rankings]
    page = html_page(content(rankings=alone, dropped=[], lacking={}, mismatches={}, examples=[]))
    assert "times" not in Page(page).text.split("How good")[1].split("Test split")[0]
    assert "dropped" not in Page(page).text


def test_markdown_tables_are_whole():
    page = markdown_page(content())
    tables = re.findall(r"(?:^\|.*\|$\n)+", page, flags=re.MULTILINE)
    assert len(tables) == 6
    for table in tables:
        cells = {row.replace("\\|", "").count("|") for row in table.splitlines()}
        assert len(cells) == 1, table
    assert "| text | 0.2500 | 0.2500 | 0.2500 | 0.2500 | 0.2500 | 0.2500 | 0.2000 to 0.3000 | 2.50 |" in page
    assert "| text | 0.1250 | 0.1250 | 0.1250 | 0.1250 | 0.1250 | 0.1250 |" in page
    assert "| 0-3 | 9 | 0.5000 | 0.2500 |" in page
    assert "| text | 2.38% | 0.00% | 42 | 3 | 2 |" in page
    assert "| 1,234 | 567 | 8,901 | 7.25 | 98.77% | 12.5% |" in page
    assert "Expected 568 items of this known data set, found 567." in page


def test_markdown_names_are_no_markup():
    page = markdown_page(content(about=content().about._replace(dataset="a|b <i>\n# c")))
    assert page.splitlines()[0] == r"# macrec on a\|b \<i\> \# c"


def test_outline_by_hand():
    assert outline([2, 1]) == "M0 1V0H0.5V0.5H1V1Z"
    assert outline([3]) == "M0 1V0H1V1Z"


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=600).map(lambda sizes: sorted(sizes, reverse=True)))
def test_an_outline_falls_from_the_top_and_spans_the_width(sizes):
    heights = [float(height) for height in re.findall(r"V([\d.]+)H", outline(sizes))]
    assert heights == sorted(heights)
    assert heights[0] == 0
    assert len(heights) == min(len(sizes), OUTLINE_POINTS)
    assert outline(sizes).endswith("H1V1Z")
