"""What a model recommends after histories that it has never seen: the rankings of the pipeline, for anyone.

The same functions as in the stages rank_items, rank_collaborative and evaluate rank and fuse here, so a history of the
test split gets the list and the scores that it got there. Scores of a batch are those of the same batch bit by bit; in
batches of another size or company the last bit of a sum may round otherwise.

Letters: S histories, N items that the model was trained on, K the length of a list.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from operator import index
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, SupportsIndex, TypedDict, Unpack

import numpy as np
import polars as pl
import torch

from tessera.artifacts import read_table
from tessera.errors import DataError, TableError
from tessera.items.progress import Progress, silently
from tessera.recommender.batches import Rows
from tessera.recommender.corpus import Histories, history_sources
from tessera.recommender.factors import AlsSettings
from tessera.recommender.fusion import USERS_AT_ONCE, Weight, fuse, weights_in
from tessera.recommender.lists import Floats, HistoryRanker, rank_histories, rankings_table
from tessera.recommender.members import Fitted, ranker_of
from tessera.recommender.model import load_model
from tessera.recommender.popularity import POPULARITY
from tessera.recommender.ranking import Decoding, rank_by_tasks, tries_of
from tessera.recommender.readers import Reader, reader_of
from tessera.recommender.strengths import Sparse, strengths_in
from tessera.recommender.transitions import Weights, transition_matrix
from tessera.runtime import torch_device
from tessera.schemas import INTERACTIONS, RANKINGS, STRENGTHS, USERS, VECTORS, WEIGHTS, Schema
from tessera.tasks import scoring
from tessera.using.keys import printable, unknown_key
from tessera.using.shop import Shop, load_shop

#: Items that are recommended where nobody says how many, if decode.beams are as many.
USUAL: Final = 10

#: What is ranked here comes next, as in the test split.
SPLIT: Final = "test"

#: An export has, in the place of interactions, how often each item was taken.
SALES: Schema = {"item": pl.UInt32, "interactions": pl.UInt32}

#: What `Recommender.table` returns; `user` is the place of the history.
RECOMMENDATIONS: Schema = {
    "user": pl.UInt32,
    "rank": pl.UInt16,
    "item": pl.String,
    "title": pl.String,
    "score": pl.Float32,
    "found_by": pl.List(pl.Struct({"ranking": pl.String, "rank": pl.UInt16})),
}


class Options(TypedDict, total=False):
    """What `Recommender.tables` takes beside histories."""

    k: int | None
    exclude_seen: bool | None
    skip_unknown: bool
    progress: Progress


class Recommendation(NamedTuple):
    """An item for a history."""

    rank: int
    key: str
    title: str
    score: float
    found_by: dict[str, int]  # the rankings that hold it (text, image, ...), and its rank in each


class Asked(NamedTuple):
    """Histories to rank for, none of them empty; S of them."""

    users: pl.Series  # (S,) whose they are
    histories: Histories  # cut to what the model reads
    whole: Histories

    def seen(self, *, exclude: bool) -> Histories | None:
        """Return all that was had, where that is to be left out."""
        return self.whole if exclude else None


class Ranker(Protocol):
    """What makes one ranking or several."""

    names: tuple[str, ...]  # of the rankings
    known: int  # the items 0..known-1 mean something to it

    def ranked(self, asked: Asked, *, exclude_seen: bool, progress: Progress) -> pl.DataFrame:
        """Return the best items after each history, as a table of RANKINGS; progress wraps batches of histories."""
        ...


class IdRanker:
    """Ranks by the IDs that the T5 generates, as rank_items does."""

    def __init__(self, shop: Shop, reader: Reader) -> None:
        self.words, self.reader, self.tokens = shop.words, reader, shop.tokens
        self.decoding = Decoding(**shop.params.decode.model_dump(include=set(Decoding._fields)))
        self.names = tuple(task.ranking for task in scoring(self.words.tasks, self.decoding.rescoring))
        self.tries = tries_of(self.words, self.tokens, self.decoding)
        self.known = shop.items.height

    def ranked(self, asked: Asked, *, exclude_seen: bool, progress: Progress) -> pl.DataFrame:
        """Return the best items after each history, as a table of RANKINGS; progress wraps batches of histories."""
        before, lengths = asked.histories.before, asked.histories.lengths
        sources = {
            task.source: rows_from(*history_sources(task, before, lengths, self.tokens, self.words))
            for task in scoring(self.words.tasks, "none")
        }
        seen = asked.seen(exclude=exclude_seen)
        found = rank_by_tasks(
            self.reader,
            self.words,
            self.tries,
            sources,
            self.decoding,
            seen=None if seen is None else rows_from(seen.before, np.append(0, np.cumsum(seen.lengths))),
            progress=progress,
        )
        return pl.concat(
            rankings_table(lists.items.numpy(), lists.scores.numpy(), users=asked.users, split=SPLIT, modality=name)
            for name, lists in found
        )


class ScoreRanker:
    """Ranks the items that it knows by scores, as rank_collaborative does."""

    def __init__(self, name: str, rank: HistoryRanker, *, known: int, length: int, tokens: int = 1) -> None:
        self.names: tuple[str, ...] = (name,)
        self.rank, self.known, self.length, self.tokens = rank, known, length, tokens

    def ranked(self, asked: Asked, *, exclude_seen: bool, progress: Progress) -> pl.DataFrame:
        """Return the best items after each history, as a table of RANKINGS; progress wraps batches of histories."""
        [name] = self.names
        seen = asked.seen(exclude=exclude_seen)
        lists = self.rank(asked.histories, length=self.length, seen=seen, progress=partial(progress, title=name))
        scores = lists.scores / self.tokens
        return rankings_table(lists.items, scores, users=asked.users, split=SPLIT, modality=name)


class Recommender:
    """Recommends items after histories of keys.

    >>> Recommender.load("shop").recommend(["B0002D01KO", "B0002E1G5C"])  # doctest: +SKIP
    """

    def __init__(self, shop: Shop, *, device: str | None = None) -> None:
        self.shop = shop
        self.rankers = rankers_of(shop, device=device)
        alone = {POPULARITY: Weight(score=1.0, held=0.0)}  # its list is never beside another
        self.weights = alone | weights_in(read_table(shop.parts["weights"], WEIGHTS))
        self.sales = sales_of(shop)
        by_sales = partial(rank_histories, self._sales_of_all, items=len(self.sales))
        self.popularity = ScoreRanker(POPULARITY, by_sales, known=len(self.sales), length=shop.params.decode.beams)
        self.places = {key: item for item, key in enumerate(shop.items["key"])}

    def _sales_of_all(self, found: Histories) -> Floats:
        return np.tile(self.sales, (len(found.lengths), 1))

    @classmethod
    def load(cls, folder: Path | str, *, added: Path | str | None = None, device: str | None = None) -> "Recommender":
        """Return what recommends by the model in folder: one that `tessera export` wrote, or a repository after a run.

        added is a folder of items that `tessera add-items` wrote. device is as the parameter of that name, which holds
        where none is given.

        Raises CheckpointError or TableError, naming the file, where one is missing, of another format, or not as it was
        written.
        """
        return cls(load_shop(Path(folder), added=None if added is None else Path(added)), device=device)

    def recommend(
        self,
        history: Sequence[str],
        *,
        k: int | None = None,
        exclude_seen: bool | None = None,
        skip_unknown: bool = False,
    ) -> list[Recommendation]:
        """Return the k best items after a history of keys, the oldest first: 10 if k is not given; see `table`."""
        return self.recommend_all([history], k=k, exclude_seen=exclude_seen, skip_unknown=skip_unknown)[0]

    def recommend_all(
        self,
        histories: Iterable[Sequence[str]],
        *,
        k: int | None = None,
        exclude_seen: bool | None = None,
        skip_unknown: bool = False,
    ) -> list[list[Recommendation]]:
        """Return the k best items after each history; all at once takes a fraction of the time. See `table`."""
        histories = list(histories)
        found = self.table(histories, k=k, exclude_seen=exclude_seen, skip_unknown=skip_unknown)
        lists: list[list[Recommendation]] = [[] for _ in histories]
        for user, place, key, title, score, rankings in found.iter_rows():
            by = {each["ranking"]: each["rank"] for each in rankings}
            lists[user].append(Recommendation(place, key, title, score, by))
        return lists

    def table(self, histories: Sequence[Sequence[str]], **options: Unpack[Options]) -> pl.DataFrame:
        """Return the k best items after each history as a table of RECOMMENDATIONS, sorted by user and rank.

        See `tables`, which holds fewer lists at once, for the options.
        """
        return pl.concat(self.tables(histories, **options))

    def tables(
        self,
        histories: Sequence[Sequence[str]],
        *,
        k: int | None = None,
        exclude_seen: bool | None = None,
        skip_unknown: bool = False,
        progress: Progress = silently,
    ) -> Iterator[pl.DataFrame]:
        """Yield the k best items after each history as tables of RECOMMENDATIONS of USERS_AT_ONCE histories each.

        A history is the keys of items, the oldest first; one that comes twice counts once, the first time. Of a longer
        history the last `corpus.max_history` items are read. exclude_seen leaves out what the history holds; if it is
        not given, the parameter decode.exclude_seen tells. Where no ranking finds anything after a history, as after an
        empty one, it gets what sold best, found by popularity. progress wraps each ranking's batches of histories.

        Raises DataError for a key that is not of an item, unless unknown keys are to be skipped, and for a k above the
        parameter decode.beams.
        """
        beams = self.shop.params.decode.beams
        k = min(USUAL, beams) if k is None else k
        if not isinstance(k, SupportsIndex) or not 1 <= index(k) <= beams:
            raise DataError(f"k: expected a number from 1 to decode.beams = {beams}, found {k}")
        items = [self._items_of(history, skip_unknown=skip_unknown) for history in histories]
        exclude = self.shop.params.decode.exclude_seen if exclude_seen is None else exclude_seen
        for start in range(0, max(1, len(items)), USERS_AT_ONCE):
            part = items[start : start + USERS_AT_ONCE]
            single = self._single(part, exclude_seen=exclude, progress=progress)
            fused = fuse(single, rule=self.shop.params.decode.fusion, cut=beams, weights=self.weights)
            told = self._told(fused.filter(pl.col("rank") <= k), single)
            yield told.with_columns((pl.col("user") + start).cast(pl.UInt32))

    def _items_of(self, history: Sequence[str], *, skip_unknown: bool) -> list[int]:
        if isinstance(history, str):
            raise DataError(f"history: expected a list of keys, found the text {history!r}")
        if not isinstance(history, Sequence) or not all(isinstance(key, str) for key in history):
            raise DataError(f"history: expected a list of keys, each of them a text, found {history!r}")
        unknown = [key for key in history if key not in self.places]
        if unknown and not skip_unknown:
            raise unknown_key(unknown[0], self.shop.items, trained=self.shop.trained)
        return [self.places[key] for key in dict.fromkeys(history) if key in self.places]

    def _single(self, items: Sequence[Sequence[int]], *, exclude_seen: bool, progress: Progress) -> pl.DataFrame:
        """Return every ranking of all histories, as one table of RANKINGS."""
        tables, served = [pl.DataFrame(schema=RANKINGS)], set[int]()
        for ranker in self.rankers:
            asked = self._asked(items, known=ranker.known)
            if len(asked.users):
                tables.append(ranker.ranked(asked, exclude_seen=exclude_seen, progress=progress))
                served |= set(tables[-1]["user"])
        if left := [user for user in range(len(items)) if user not in served]:
            asked = self._asked(items, known=self.popularity.known, users=left)
            tables.append(self.popularity.ranked(asked, exclude_seen=exclude_seen, progress=progress))
        return pl.concat(tables)

    def _asked(self, items: Sequence[Sequence[int]], *, known: int, users: Sequence[int] | None = None) -> Asked:
        """Return the items below known of the histories of users: without any, of all that hold such an item."""
        kept = [[item for item in history if item < known] for history in items]
        users = [user for user, history in enumerate(kept) if history] if users is None else users
        lengths = np.array([len(kept[user]) for user in users], np.int64)
        flat = np.array([item for user in users for item in kept[user]], np.uint32)
        everyone, ends = np.array(users, np.uint32), np.cumsum(lengths)
        whole = Histories(flat, everyone, ends, lengths)
        read = Histories(flat, everyone, ends, np.minimum(lengths, self.shop.params.corpus.max_history))
        return Asked(pl.Series(users, dtype=pl.UInt32), read, whole)

    def _told(self, final: pl.DataFrame, single: pl.DataFrame) -> pl.DataFrame:
        """Return final rankings with keys and titles, and which of the single ones hold each item."""
        by = single.join(final.select("user", "item"), on=["user", "item"], how="semi", maintain_order="left")
        found_by = by.group_by("user", "item", maintain_order=True).agg(
            found_by=pl.struct(ranking="modality", rank="rank")
        )
        named = self.shop.items.select("item", "key", "title")
        told = final.join(found_by, on=["user", "item"], how="left", maintain_order="left")
        told = told.join(named, on="item", how="left", maintain_order="left")
        return told.select("user", "rank", pl.col("key").alias("item"), "title", "score", "found_by")


def rankers_of(shop: Shop, *, device: str | None = None) -> list[Ranker]:
    """Return what makes the rankings that the system fuses: the T5, and each collaborative member."""
    params = shop.params
    where: Any = torch_device(device or params.device)
    rankers: list[Ranker] = []
    if shop.words.modalities:
        reader = reader_of(load_model(shop.parts["checkpoint"], shop.words, shop.trained_tokens).to(where))
        rankers.append(IdRanker(shop, reader))
    for member in params.collaborative.members:
        rank = _ranker(member, shop, device=device)
        length, tokens = params.decode.beams, params.collaborative.tokens
        rankers.append(ScoreRanker(member, rank, known=shop.trained, length=length, tokens=tokens))
    return rankers


def _ranker(member: str, shop: Shop, *, device: str | None) -> HistoryRanker:
    if member == "bpr":
        raise DataError(
            "collaborative.members: expected others than bpr, found it: it knows the users of the run by their own "
            "factors, and cannot recommend after a history"
        )
    params = shop.params
    fitted = Fitted(
        recency={"itemknn": params.itemknn.recency, "slist": params.slist.recency},
        strengths=lambda name: transitions_of(shop) if name == "itemknn" else _strengths(shop, "slist_strengths"),
        als=AlsSettings(**params.als.model_dump()),
        factors=lambda: _factors(shop),
        encoder=shop.parts["sequence_encoder"],
        device=lambda: torch_device(device or params.device),
    )
    return ranker_of(member, fitted, items=shop.trained, max_history=params.corpus.max_history)


def transitions_of(shop: Shop) -> Sparse:
    """Return how strongly each item calls for each other (N, N): counted from a run's interactions, or exported."""
    if shop.parts.is_export:
        return _strengths(shop, "transitions")
    interactions = read_table(shop.parts["interactions"], INTERACTIONS)
    weights = Weights(**shop.params.itemknn.model_dump())
    return transition_matrix(interactions, items=shop.trained, weights=weights)


def _strengths(shop: Shop, part: str) -> Sparse:
    table = read_table(shop.parts[part], STRENGTHS)
    known = int(table.select(pl.max_horizontal("item", "next").max()).item() or 0) + 1 if table.height else 0
    if not 0 < known <= shop.trained:
        raise _of_another_run(shop, part, found=f"those of {known}")
    return strengths_in(table, items=shop.trained)


def _factors(shop: Shop) -> pl.DataFrame:
    table = read_table(shop.parts["als_factors"], VECTORS)
    if table.height != shop.trained:
        raise _of_another_run(shop, "als_factors", found=f"those of {table.height}")
    return table


def _of_another_run(shop: Shop, part: str, *, found: str) -> TableError:
    return TableError(
        f"{shop.parts[part]}: expected what was learned of {shop.trained} items, found {found}; `dvc repro` makes it"
    )


def sales_of(shop: Shop) -> Floats:
    """Return how many training interactions each item has (N + A,): counted from a run's, or exported."""
    if shop.parts.is_export:
        counts = read_table(shop.parts["popularity"], SALES)
    else:
        train = read_table(shop.parts["interactions"], INTERACTIONS).filter(split="train")
        counts = train.group_by("item").agg(interactions=pl.len().cast(pl.UInt32))
    sales = np.zeros(shop.items.height)
    sales[counts["item"].to_numpy()] = counts["interactions"].to_numpy()
    return sales


def rows_from(values: np.ndarray, offsets: np.ndarray) -> Rows:
    """Return lists of integers, end to end, as rows."""
    return Rows(torch.from_numpy(values.astype(np.int32)), torch.from_numpy(offsets))


def user_history(shop: Shop, key: str) -> list[str]:
    """Return the keys of all items that a user of a run has had, the oldest first.

    Raises DataError for a user that the run has not, TableError for an export, which has no users.
    """
    users = read_table(shop.parts["users"], USERS)
    known = users.filter(key=key)
    if known.is_empty():
        raise DataError(
            f"{printable(key)}: expected the key of one of {users.height} users, found none such; filter_reviews "
            f"leaves out who has fewer than filter.k = {shop.params.filter.k} interactions"
        )
    rows = read_table(shop.parts["interactions"], INTERACTIONS).filter(user=known["user"][0]).sort("position")
    return shop.items["key"].gather(rows["item"]).to_list()


def listed_keys(text: str) -> list[str]:
    """Return the keys that a text names, as in `B1,B2`: `""` names none."""
    return [key.strip() for key in text.split(",") if key.strip()]
