"""From the texts of a source's fields to reviews: who, what, when, and how it was liked."""

from typing import Literal, TypeVar

import polars as pl

from tessera.items.lines import UNREADABLE

Unit = Literal["s", "ms"]
Time = TypeVar("Time", pl.Expr, pl.Series)

#: Milliseconds in what a source counts time in.
UNITS: dict[Unit, int] = {"s": 1000, "ms": 1}

#: A number of seconds this large would be in the year 5138, a number of milliseconds in 1973: what lies above are
#: milliseconds.
SMALLEST_MILLISECONDS = 100_000_000_000

#: 1 January 2200, in milliseconds: a time from then on is a slip.
LATEST = 7_258_118_400_000

#: Days, then local times, in the forms of ISO 8601, with a space for the T.
DAY_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f")
OFFSET_FORMATS = ("%Y-%m-%d %H:%M%:z", "%Y-%m-%d %H:%M:%S%.f%:z")

#: Offsets in whole hours, which only a time of day can have before them: `2024-03-31` ends in none.
HOURS_ONLY = r"(:\d\d(?:\.\d+)?[+-]\d\d)$"

#: Why a review is none.
PROBLEMS = (
    "no_record",
    "missing_user",
    "bad_user",
    "missing_item",
    "bad_item",
    "missing_time",
    "bad_time",
    "bad_rating",
)


def reviews_of(fields: pl.DataFrame, *, unit: Unit) -> pl.DataFrame:
    """Return user_key, item_key, time in milliseconds, rating, row and problem of the texts user, item, time, rating.

    Times may be whole numbers and ratings floats instead. Rows stay, and so do their problems; what keeps a row from
    being a review is added as its problem, one of PROBLEMS. A rating may be missing, a time must be a number between
    1970 and 2200 in unit.
    """
    rating = pl.col("rating").cast(pl.Float32, strict=False)
    values = fields.select(
        user_key="user",
        item_key="item",
        time=_milliseconds(pl.col("time"), unit),
        rating=pl.when(rating.is_finite()).then(rating),
        row=pl.col("row").cast(pl.UInt64),
    )
    flaws = fields.select(
        **_key_flaws(fields, "user"),
        **_key_flaws(fields, "item"),
        missing_time=_is_missing(fields["time"]),
        bad_time=~values["time"].is_between(0, LATEST, closed="left").fill_null(False),
        bad_rating=values["rating"].is_null() & ~_is_missing(fields["rating"]),
    )
    found = [pl.when(flaw).then(pl.lit(flaw.name)) for flaw in flaws if flaw.any()]
    return values.with_columns(problem=pl.select(pl.coalesce(fields["problem"], *found)).to_series())


def times_in_milliseconds(times: pl.Series) -> pl.Series:
    """Return texts of times, numbers or dates of ISO 8601, as texts of milliseconds; what is neither stays as it is.

    The median of the numbers tells whether they count seconds or milliseconds. A date without an offset is in UTC:
    `["5", "1970-01-01T01:00:00+01:00", "soon"]` becomes `["5000", "0", "soon"]`.
    """
    numbers = times.cast(pl.Float64, strict=False).fill_nan(None)
    median = numbers.median()
    unit: Unit = "ms" if isinstance(median, float) and median >= SMALLEST_MILLISECONDS else "s"
    known = [_milliseconds(times, unit)]
    if numbers.null_count() > times.null_count():
        known += _dates(times)
    return pl.select(pl.coalesce(*(each.cast(pl.String) for each in known), times).alias(times.name)).to_series()


def _dates(times: pl.Series) -> list[pl.Series]:
    text = times.str.strip_chars().str.replace(" ?(Z|UTC)$", "+00:00").str.replace("T", " ")
    text = text.str.replace(HOURS_ONLY, "${1}:00")
    dates = [text.str.to_datetime(form, strict=False, time_unit="ms") for form in (*DAY_FORMATS, *OFFSET_FORMATS)]
    return [each.dt.timestamp("ms") for each in dates]


def _milliseconds(time: Time, unit: Unit) -> Time:
    """Return whole numbers exactly and others rounded; what is no number or out of reach is null."""
    whole = time.cast(pl.Int64, strict=False)
    broken = (time.cast(pl.Float64, strict=False) * UNITS[unit]).round().cast(pl.Int64, strict=False)
    return (whole.clip(-LATEST, LATEST) * UNITS[unit]).fill_null(broken)


def _key_flaws(fields: pl.DataFrame, side: str) -> dict[str, pl.Series]:
    return {f"missing_{side}": _is_missing(fields[side]), f"bad_{side}": fields[side].str.contains(UNREADABLE)}


def _is_missing(column: pl.Series) -> pl.Series:
    return column.is_null() | (column.str.len_bytes() == 0) if column.dtype == pl.String else column.is_null()
