"""The commands `tessera recommend`, `similar`, `add-items` and `export`: where the parts of this package meet the user.

They import what they need when they are called, since `tessera ids` needs nothing of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tessera.artifacts import named_paths, require_writable, table_writer
from tessera.errors import DataError
from tessera.runtime import log, progress
from tessera.using.keys import printable, unknown_key

if TYPE_CHECKING:
    from tessera.using.histories import UserHistories
    from tessera.using.recommender import Recommendation, Recommender

Model = Annotated[Path, typer.Option(help="A folder of `tessera export`, or a repository in which the pipeline ran.")]
Added = Annotated[Path | None, typer.Option(help="A folder of items that `tessera add-items` wrote.")]

#: New items that are shown.
SHOWN = 20

out = Console(highlight=False, emoji=False)


def recommend(
    *,
    history: Annotated[str | None, typer.Option(metavar="KEY,KEY,...", help="A history, oldest item first.")] = None,
    user: Annotated[str | None, typer.Option(metavar="KEY", help="A user of the run, with all of its items.")] = None,
    file: Annotated[Path | None, typer.Option(help="Histories of many users: .csv, .jsonl or .parquet.")] = None,
    output: Annotated[Path | None, typer.Option(help="With --file: the Parquet file to write.")] = None,
    k: Annotated[
        int | None, typer.Option("--k", min=1, help="How many items; decode.beams at most.", show_default="10")
    ] = None,
    exclude_seen: Annotated[
        bool | None, typer.Option("--exclude-seen/--include-seen", help="Instead of decode.exclude_seen.")
    ] = None,
    skip_unknown: Annotated[bool, typer.Option("--skip-unknown", help="Pass over keys that no item has.")] = False,
    model: Model = Path(),
    added: Added = None,
) -> None:
    """Recommend items after a history, with their scores and which rankings found each.

    A file has the columns user, item and timestamp, or user and history, a list of keys. What is recommended to its
    users goes to a Parquet file: user, rank, item, title, score, found_by (ranking and rank in it).
    """
    _require_one(history=history, user=user, file=file)
    if (file is None) != (output is None):
        raise typer.BadParameter("--file and --output come together")
    if output is not None and (output.suffix != ".parquet" or output.is_dir()):
        raise typer.BadParameter(f"--output: expected a file that ends in .parquet, found {output}")
    if output is not None:
        require_writable(output.parent)
    from tessera.using.recommender import Recommender, listed_keys, user_history

    recommender = Recommender.load(model, added=added)
    options: dict[str, Any] = {"k": k, "exclude_seen": exclude_seen, "skip_unknown": skip_unknown}
    if file is not None and output is not None:
        _recommend_to_file(recommender, file, output, **options)
        return
    keys = listed_keys(history or "") if user is None else user_history(recommender.shop, user)
    found = recommender.recommend(keys, **options)
    _tell_of_unknown(recommender, [keys])
    _print_recommendations(found)


def similar(
    key: Annotated[str, typer.Argument(help="The key of an item.")],
    *,
    count: Annotated[int, typer.Option(min=1, help="How many items by each measure.")] = 5,
    model: Model = Path(),
    added: Added = None,
) -> None:
    """Show the items nearest to one: by the codes that their IDs share, and by their vectors, in each modality."""
    from tessera.using.neighbours import neighbours_of
    from tessera.using.shop import load_shop

    shop = load_shop(model, added=added)
    found = shop.items.filter(key=key)
    if found.is_empty():
        raise unknown_key(key, shop.items, trained=shop.trained)
    _print_head(found.row(0, named=True))
    measures = neighbours_of(shop, found["item"][0], count=count)
    if not measures:
        out.print("the system has neither IDs nor vectors to compare items by", style="dim")
    for measure in measures:
        near = "codes shared" if measure.by.endswith("ID") else "cosine"
        table = Table(near, "key", "title", title=measure.by, title_justify="left", box=None, header_style="dim")
        for item, how in zip(measure.items, measure.near, strict=True):
            row = shop.items.row(item, named=True)
            table.add_row(how, escape(printable(row["key"])), escape(printable(row["title"])))
        out.print()
        out.print(table if measure.items else f"{measure.by}\nnone is near by it", markup=False)


def add_items(
    file: Annotated[Path, typer.Argument(help="The items, in the format of one's own items.jsonl, .csv or .parquet.")],
    *,
    added: Annotated[Path, typer.Option(help="The folder that they go to, beside those that are there.")],
    vectors: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH of their vectors, where an encoder is precomputed.")
    ] = None,
    model: Model = Path(),
) -> None:
    """Give new items semantic IDs by the quantizer as it is, without changing any ID that is there.

    Paths of pictures start from the folder of FILE. Items that are known by their keys stay as they are. The new ones
    can be recommended at once: `tessera recommend --added FOLDER`.
    """
    from tessera.errors import CheckpointError
    from tessera.using import additions
    from tessera.using.histories import warn_of_malformed
    from tessera.using.parts import is_added
    from tessera.using.shop import load_shop, write_added

    if added.exists() and not is_added(added):
        raise CheckpointError(f"{added}: expected a new folder or one of added items, found another")
    shop = load_shop(model, added=added if added.exists() else None)
    found = additions.add_items(shop, file, precomputed=named_paths(vectors or []))
    warn_of_malformed(file, found.malformed, rows=found.rows, wanted="items")
    if found.repeated:
        log.warning("%s: %s of items that an earlier row tells of, left out", file, counted(found.repeated, "row"))
    if found.known:
        number = counted(len(found.known), "item")
        log.warning("%s there already, left as before, such as %s", number, found.known[0])
    for status, keys in found.without_picture.items():
        log.warning("%s without its picture (%s), such as %s", counted(len(keys), "item"), status, keys[0])
    write_added(added, shop, items=found.items, ids=found.ids, vectors=found.vectors)
    table = Table("key", "title", *(f"{name} ID" for name in shop.words.modalities), box=None, header_style="dim")
    for row in found.items.head(SHOWN).iter_rows(named=True):
        codes = ["-".join(map(str, each)) for each in found.ids.filter(item=row["item"])["codes"]]
        table.add_row(escape(printable(row["key"])), escape(printable(row["title"])), *codes)
    out.print(table)
    moved = found.ids.filter("moved").height
    told_of = f"{counted(found.items.height, 'new item')}; {counted(moved, 'ID')} moved to a free place; {added}"
    out.print(told_of, markup=False, soft_wrap=True)


def export(
    folder: Annotated[Path, typer.Argument(help="Where to: a new folder, or an earlier export.")],
    *,
    model: Model = Path(),
    added: Added = None,
) -> None:
    """Write the model as a folder that needs neither run nor repository, for `Recommender.load`."""
    from tessera.using.exporting import write_export
    from tessera.using.recommender import Recommender

    recommender = Recommender.load(model, added=added)
    write_export(recommender, folder)
    names = ", ".join(name for ranker in recommender.rankers for name in ranker.names) or "popularity"
    out.print(f"{folder}: {recommender.shop.items.height} items, ranked by {names}", markup=False, soft_wrap=True)
    out.print("left out: users and their interactions", style="dim", markup=False)


def register(commands: typer.Typer) -> None:
    """Add these commands to commands."""
    commands.command("recommend")(recommend)
    commands.command("similar")(similar)
    commands.command("add-items")(add_items)
    commands.command("export")(export)


def counted(number: int, thing: str) -> str:
    """Return a number and what it counts, as in `1 user` and `2 users`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _require_one(**options: object) -> None:
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        names = ", ".join(f"--{name}" for name in options)
        found = ", ".join(f"--{name}" for name in given) or "none"
        raise typer.BadParameter(f"expected one of {names}, found {found}")


def _recommend_to_file(recommender: "Recommender", file: Path, output: Path, **options: Any) -> None:
    from tessera.using.histories import read_histories
    from tessera.using.recommender import RECOMMENDATIONS

    params = recommender.shop.params
    told = read_histories(
        file,
        ties=params.filter.ties,
        max_malformed=params.dataset.max_malformed,
        min_rating=params.filter.min_rating,
    )
    if not options["skip_unknown"]:
        _require_known(recommender, told, file=file)
    users, count = pl.Series("user", told.users, dtype=pl.String), 0
    with table_writer(output, RECOMMENDATIONS | {"user": pl.String}) as write:
        for found in recommender.tables(told.histories, progress=progress, **options):
            write(found.with_columns(user=users.gather(found["user"])))
            count += found.height
    if options["skip_unknown"]:
        _tell_of_unknown(recommender, told.histories)
    told_of = f"{counted(count, 'recommendation')} to {counted(len(told.users), 'user')}"
    out.print(f"{output}: {told_of}", markup=False, soft_wrap=True)


def _require_known(recommender: "Recommender", told: "UserHistories", *, file: Path) -> None:
    """Raise DataError, naming the file and the user, where a history has a key that no item has."""
    for user, history in zip(told.users, told.histories, strict=True):
        for key in history:
            if key not in recommender.places:
                shop = recommender.shop
                error = unknown_key(key, shop.items, trained=shop.trained)
                raise DataError(f"{file}: user {printable(user)}: {error}\n  --skip-unknown passes over such keys")


def _tell_of_unknown(recommender: "Recommender", histories: Sequence[Sequence[str]]) -> None:
    """Warn of keys that are passed over; without --skip-unknown they are an error."""
    unknown = sorted({key for history in histories for key in history} - recommender.places.keys())
    if unknown:
        log.warning("%s of no item, such as %s", counted(len(unknown), "key"), unknown[0])


def _print_recommendations(found: "list[Recommendation]") -> None:
    table = Table("rank", "key", "title", "score", "found by (rank)", box=None, header_style="dim")
    for each in found:
        by = ", ".join(f"{ranking} {rank}" for ranking, rank in each.found_by.items())
        table.add_row(
            str(each.rank), escape(printable(each.key)), escape(printable(each.title)), f"{each.score:.4f}", by
        )
    out.print(table)


def _print_head(item: dict[str, Any]) -> None:
    out.print(printable(item["key"]), style="bold", markup=False)
    out.print(printable(item["title"]) or "(no title)", markup=False)
