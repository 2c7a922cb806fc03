"""The page in a browser: nothing fails, nothing is fetched, and it can be looked through."""

import re
import shutil
from contextlib import contextmanager

import polars as pl
import pytest

from stages.write_report import main
from tests.finished_run import finish_run
from tests.pipeline_runs import write_params

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
SECTIONS = [
    "results",
    "slices",
    "users",
    "agreement",
    "codes",
    "tree",
    "collided",
    "neighbours",
    "training",
    "data",
    "origin",
]
PHONE, DESKTOP = (390, 844), (1280, 900)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a small shop."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "run").mkdir()
    write_params(folder / "params.yaml", {"eval.resamples": 50, "report.examples": 3})
    run = finish_run(folder / "run", folder / "params.yaml")
    ids = pl.read_parquet(run.ids)
    same = pl.when(item=0).then([0, 1, 7]).otherwise("first_codes").cast(ids.schema["first_codes"])
    ids.with_columns(first_codes=same).write_parquet(run.ids)  # items 0 and 1 collided
    page = folder / "index.html"
    main(**run.options, html=page, markdown=folder / "report.md", params_file=folder / "params.yaml")
    return page


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, report):
    """Open the page once its charts are drawn; what the console said, and what was asked for, must be nothing."""

    @contextmanager
    def open_page(size=DESKTOP, *, dark=False, **how):
        context = browser.new_context(
            viewport=dict(zip(("width", "height"), size, strict=True)), color_scheme="dark" if dark else "light", **how
        )
        page, said, asked = context.new_page(), [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        if how.get("java_script_enabled", True):
            page.wait_for_function("document.documentElement.dataset.drawn", timeout=60_000)
        yield page
        context.close()
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]

    return open_page


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_without_errors_or_requests_and_each_section_is_there(opened, size, dark):
    with opened(size, dark=dark) as page:
        assert [each.get_attribute("id") for each in page.locator("section").all()] == SECTIONS
        assert all(each.is_visible() for each in page.locator("section h2").all())
        drawn = page.locator("[data-chart] svg")
        assert (
            drawn.count()
            == page.locator("[data-chart]").count()
            == int(page.locator("html").get_attribute("data-drawn"))
        )
        assert all(box["width"] > 100 and box["height"] > 60 for box in (svg.bounding_box() for svg in drawn.all()))
        assert page.evaluate("document.documentElement.scrollWidth") == size[0], "nothing reaches beyond the side"


#: The words of a chart that reach beyond what is drawn of it.
CUT = """() => [...document.querySelectorAll("[data-chart] svg")].flatMap(svg => {
    const shown = svg.getBoundingClientRect()
    const isCut = box => box.top < shown.top - 1 || box.bottom > shown.bottom + 1 || box.right > shown.right + 1
    const words = [...svg.querySelectorAll("text")]
    return words.filter(each => isCut(each.getBoundingClientRect())).map(each => each.textContent)
})"""


@pytest.mark.parametrize("width", [320, 390, 700, 920, 1000, 1100, 1160, 1180, 1200, 1220, 1240, 1260, 1280])
def test_no_word_of_a_chart_is_cut_off(opened, width):
    with opened((width, 900)) as page:
        assert page.evaluate(CUT) == []


def test_a_chart_follows_the_page_into_the_dark(opened):
    colours = []
    for dark in (False, True):
        with opened(dark=dark) as page:
            bar = page.locator("#results .mark-rect path").first
            colours.append(bar.evaluate("mark => getComputedStyle(mark).fill"))
            body = page.evaluate("getComputedStyle(document.body).backgroundColor")
            light = sum(map(int, re.findall(r"\d+", body)[:3])) / 3
            assert light < 60 if dark else light > 200
    assert colours[0] != colours[1]
    assert all(colour.startswith("rgb(") and colour != "rgb(0, 0, 0)" for colour in colours)


def test_a_mark_tells_its_numbers(opened):
    with opened() as page:
        page.locator("#results .mark-rect path").first.hover(position={"x": 4, "y": 8})
        told = page.locator("#vg-tooltip-element.visible")
        told.wait_for()
        assert re.search(r"ranking.*text.*HR@10.*0\.\d{4}", told.inner_text(), re.DOTALL)


def test_a_node_opens_level_by_level(opened):
    with opened() as page:
        outer = page.locator("#tree .tree").first.locator("> .node").first
        inner = outer.locator(".item, .node").first
        assert not inner.is_visible()
        outer.locator("> summary").click()
        assert inner.is_visible()
        picture = page.locator("#tree .item img:visible").first
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        outer.locator("> summary").click()
        assert not inner.is_visible()


def test_a_user_can_be_chosen(opened):
    with opened(PHONE) as page:
        shown = page.locator(".example:visible")
        assert shown.count() == 1
        first = shown.locator("h3").inner_text()
        page.select_option("#user", index=2)
        assert shown.count() == 1
        third = shown.locator("h3").inner_text()
        page.get_by_label("the next user").click()
        assert (shown.locator("h3").inner_text(), first != third) == (first, True)
        assert shown.locator("h4").count() == 4, "the history and three rankings"
        assert shown.locator("img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_a_hostile_title_is_text_to_the_browser_too(opened):
    with opened() as page:
        titles = page.locator("[title]").evaluate_all("all => all.map(each => each.title)")
        assert any(title.startswith("<script>alert('x')</script>") for title in titles)


def test_paper_is_white_also_in_the_dark_and_has_no_controls(opened, tmp_path):
    with opened(dark=True) as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(23, 24, 26)"
        assert not page.locator("nav").is_visible()
        assert not page.locator("#user").is_visible()
        page.pdf(path=tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").stat().st_size > 20_000


def test_without_scripts_the_text_and_every_user_are_there(opened):
    with opened(java_script_enabled=False) as page:
        assert page.locator(".example:visible").count() == 3
        assert "switched off here" in page.locator("noscript").inner_text()
