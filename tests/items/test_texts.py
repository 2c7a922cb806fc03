import gzip
import html
import json
import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.items.texts import clean

PAGE_SCRIPT = (
    "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();\n\n"
    "window.ue_ihb = (window.ue_ihb || window.ueinit || 0) + 1;\nif (window.ue_ihb === 1) {\n"
    "(function(d){var e=d.ue=d.ue||{},f=Date.now||function(){return+new Date};e.d=function(b){return f()}})(ue_csm);\n"
    "}\n"
)


def cleaned(text):
    return clean(pl.Series([text], dtype=pl.String)).item()


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        # entities
        ("Applebee&#39;s &quot;Gift&quot;", 'Applebee\'s "Gift"'),
        ("K&amp;W", "K&W"),
        ("K&amp;amp;amp;W caf&amp;#233;", "K&W café"),
        ("&amp;lt;b&amp;gt;bold&amp;lt;/b&amp;gt;", "bold"),
        ("iBookstore.&nbsp;&#160;&#xA0;More", "iBookstore. More"),
        ("&AMP;&#x26;&#038;", "&&&"),
        # what only looks like one
        ("AT&T R&D; R&center 5&times", "AT&T R&D; R&center 5&times"),
        ("&notathing;", "&notathing;"),
        # tags
        ("<div class='a'><b>Box</b> of<br/>50</div>", "Box of 50"),
        ('<a href="x?a=1&amp;b=2">3</a>,4', "3 ,4"),
        ("seen<!-- hidden > still --> again", "seen again"),
        ("3 < 5 and 7 > 6, I <3 it", "3 < 5 and 7 > 6, I <3 it"),
        ("<![CDATA[Red <b>mug</b>]]> of <![CDATA[glass & gold]]>", "Red mug of glass & gold"),
        # scripts and styles
        ("A <script type='x'>if (a<b) {c()}</script >B<STYLE>p {x: y}</STYLE>C", "A B C"),
        ("A <script>never ends", "A"),
        ("A <style type='text/css' >never ends", "A"),
        ("Ring <Style 3> silver, size 7", "Ring silver, size 7"),
        ("<Script font> pen", "pen"),
        ("A <script>x()</script\x00>B", "A B"),
        ("A &lt;script&gt;x()&lt;/script&gt; B", "A B"),
        (PAGE_SCRIPT, ""),
        (PAGE_SCRIPT + "Yamaha Guitar", "Yamaha Guitar"),
        ("Loud. P.when('A').execute(function(A) { A.on('x'); }); Clear.", "Loud. Clear."),
        ("function key (F1); various = many", "function key (F1); various = many"),
        # white space and control characters
        ("  a \t\r\n b\u3000c\u200bd ", "a b c d"),
        ("Gift\x00Card\x1b\ufeff &#0;&#1;!", "Gift Card !"),
        ("", ""),
        (None, ""),
    ],
)
def test_cleaning(dirty, expected):
    assert cleaned(dirty) == expected


def test_each_text_is_cleaned_for_itself():
    texts = pl.Series("title", ["a &lt;", "script&gt; b", None, "&amp;c", "d"])
    assert clean(texts).to_list() == ["a <", "script> b", "", "&c", "d"]
    assert clean(texts).name == "title"
    assert clean(texts[:0]).to_list() == []


def test_a_long_text_stays_long():
    words = "Strings, picks &amp; straps. " * 20_000
    assert cleaned(words) == " ".join(["Strings, picks & straps."] * 20_000)


ENTITIES = ["&", "amp;", "&amp;", "lt;", "&#38;", "#60;", "&nosuch;"]
TAGS = ["<", ">", "b", "/", "script", "<script>", "</script>", "<!--", "-->"]
REST = ["word", "é", "(", "}", "var x = 1;", " ", "\n", "\x00", "\u200b"]
fragments = st.lists(st.sampled_from(ENTITIES + TAGS + REST), max_size=14).map("".join)


@settings(deadline=None)
@given(st.lists(st.one_of(fragments, st.text(max_size=30)), max_size=6))
def test_no_mark_up_is_left(texts):
    for text in clean(pl.Series(texts, dtype=pl.String)):
        assert not re.search(r"<[A-Za-z/!?][^<>]*>", text)
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u200b\ufeff\ufffd]", text)
        assert text == re.sub(r"\s+", " ", text).strip()
        references = re.findall(r"&#?\w+;", text, re.ASCII)
        assert all(html.unescape(reference).startswith("&") for reference in references)


def slow_clean(text):
    while (once := re.sub(r"&(amp|lt|gt|quot|#39);", lambda found: html.unescape(found[0]), text)) != text:
        text = once
    return " ".join(re.sub(r"<[A-Za-z/!?][^<>]*>", " ", text).split())


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["&amp;", "&lt;", "&gt;", "amp;", "#39;", "<", ">", "p", "/", " ", "5", "."]), max_size=12)
)
def test_without_scripts_and_controls_cleaning_is_unescaping_and_untagging(pieces):
    text = "".join(pieces)
    assert cleaned(text) == slow_clean(text)


def test_a_real_shop_comes_out_readable(shared_data):
    with gzip.open(shared_data("gift_cards") / "meta_Gift_Cards.json.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    raw = pl.Series([row["title"] for row in rows] + [" ".join(row["description"]) for row in rows])
    texts = clean(raw)
    assert raw.str.contains(r"&#?\w+;|</?\w+[ />]").sum() == 281
    assert texts.str.contains(r"&#?\w+;|</?\w+[ />]|\s\s").sum() == 0
    said = raw.str.replace_all(r"<[^>]*>|&nbsp;|\s", "") != ""
    assert ((texts != "") == said).all()
    assert "Applebee's Apple Gift Cards - E-mail Delivery" in texts
