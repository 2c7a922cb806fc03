"""Titles and descriptions as a reader would see them, from what shops' pages and their dumps hold.

Only dirt goes: mark-up, scripts, entities, control characters. No text is dropped or cut for its length.
"""

import html
from html.entities import html5

import polars as pl

#: A character reference with its semicolon. Those without one (`&copy`) would turn `R&center` into `R¢er`.
ENTITY = r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"

#: An ampersand escaped any number of times over, as in `&amp;amp;quot;`: undone at once, not in a pass a level.
ESCAPED_AMPERSAND = r"(?i)&(?:amp;|#0*38;|#x0*26;)+"

#: A text that a feed marks as such, so that nothing in it has to be escaped.
CDATA = r"(?s)<!\[CDATA\[(.*?)\]\]>"

#: What a page hides: comments, and scripts and styles with all they hold, to the end where the end tag is missing. To
#: the end only what is a tag: `<Style 3>` is none, for what a tag has, it has with =.
HIDDEN = r"(?is)<!--.*?-->|<script\b.*?</script\s*>|<style\b.*?</style\s*>|<(?:script|style)(?:\s[^<>]*=[^<>]*)?\s*>.*"

#: A page's JavaScript that lost its tags, as in some 2018 titles: `var aPageStart = (new Date()).getTime(); ...`.
#: It goes from the first statement that no prose contains to the last semicolon or brace.
STRAY_SCRIPT = (
    r"(?s)[(\s]*(?:\bvar\s+\w+\s*=|\bfunction\s*\w*\s*\([\w\s,]*\)\s*\{|\bwindow\.\w+\s*=|\bnew Date\(\)|\bP\.when\()"
    r".*[;}]"
)

#: A tag starts with a letter, so `3 < 5` and `<3` stay.
TAG = r"<[A-Za-z/!?][^<>]*>"

#: NUL and other control characters, byte order marks, zero-width spaces, and the mark of undecodable bytes.
CONTROL = r"[\p{Cc}\x{FEFF}\x{200B}\x{FFFD}]"


def clean(texts: pl.Series) -> pl.Series:
    """Return texts without entities, tags, scripts, control characters and runs of white space; null becomes "".

    A text that was escaped twice is unescaped twice: `K&amp;amp;W &lt;b&gt;Gift&lt;/b&gt;` gives `K&W Gift`.
    """
    cleaned = _unescaped(texts.fill_null("")).str.replace_all(CDATA, " $1 ")
    for pattern in (CONTROL, HIDDEN, STRAY_SCRIPT, TAG, r"\s+"):
        cleaned = cleaned.str.replace_all(pattern, " ")
    return cleaned.str.strip_chars()


def _unescaped(texts: pl.Series) -> pl.Series:
    """Replace character references until none is left; one that HTML does not know stays as it is."""
    texts = texts.str.replace_all(ESCAPED_AMPERSAND, "&")
    while characters := _known(texts.str.extract_all(ENTITY).explode().drop_nulls().unique()):
        texts = texts.str.replace_many(characters)
    return texts


def _known(entities: pl.Series) -> dict[str, str]:
    return {name: html.unescape(name) for name in entities if name.startswith("&#") or name[1:] in html5}
