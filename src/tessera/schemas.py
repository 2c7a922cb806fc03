"""The tables that stages hand to each other: the contract on which the three islands meet.

`key` is always the source's own name (an ASIN, a film's number) and a string; `user` and `item` are
always the dense integers 0..n-1 that `filter_reviews` gives out, in the order of their keys.

Splits are `train`, `valid` and `test`; an interaction that is in none has `rest`. Times are milliseconds since 1970,
UTC. A `vector` column has one width in a file, and any width from file to file.
"""

import polars as pl

Schema = dict[str, pl.DataType | type[pl.DataType]]

#: Stands in the place of a modality's name for all of them together: vectors that were fused, or IDs that were joined.
JOINT = "joint"

#: The values of ids.layout that give an item one more ID, JOINT, beside those of its modalities.
JOINING = ("concatenated", "marked")

#: download_reviews: every review that could be read; `row` is its place in the source.
REVIEWS: Schema = {
    "user_key": pl.String,
    "item_key": pl.String,
    "time": pl.Int64,
    "rating": pl.Float32,
    "row": pl.UInt64,
}

#: download_reviews: what the source says of each item, as raw text; `pictures` are URLs or paths, best first.
RAW_ITEMS: Schema = {
    "key": pl.String,
    "title": pl.String,
    "description": pl.String,
    "categories": pl.List(pl.String),
    "pictures": pl.List(pl.String),
}

#: fetch_images: one row an item that the first k-core keeps; `picture` is null unless `status` is "ok".
IMAGES: Schema = {
    "key": pl.String,
    "picture": pl.Binary,
    "width": pl.UInt32,
    "height": pl.UInt32,
    "status": pl.String,
    "detail": pl.String,
}

#: filter_reviews: `position` counts from 0 in the user's own order.
INTERACTIONS: Schema = {
    "user": pl.UInt32,
    "item": pl.UInt32,
    "time": pl.Int64,
    "position": pl.UInt32,
    "split": pl.String,
}

#: filter_reviews: the items that remain, their text cleaned.
ITEMS: Schema = {
    "item": pl.UInt32,
    "key": pl.String,
    "title": pl.String,
    "description": pl.String,
    "categories": pl.List(pl.String),
    "has_picture": pl.Boolean,
    "interactions": pl.UInt32,
}

#: filter_reviews: the users that remain.
USERS: Schema = {"user": pl.UInt32, "key": pl.String, "interactions": pl.UInt32}

#: embed_*: one row an item, sorted; `present` is false where the item lacks the modality and `vector` is the mean.
#: rank_collaborative: the items' factors by ALS; not present, and 0, are those that nobody took in training.
VECTORS: Schema = {"item": pl.UInt32, "vector": pl.Array(pl.Float32, 1), "present": pl.Boolean}

#: distill_images: one row a level and code, sorted; no rows where codes are learned from vectors, by train_quantizer.
CODEBOOKS: Schema = {"level": pl.UInt16, "code": pl.UInt16, "vector": pl.Array(pl.Float32, 1)}

#: cluster_items: one row an item and modality; `label` is null where the item lacks the modality.
LABELS: Schema = {"item": pl.UInt32, "modality": pl.String, "label": pl.UInt32}

#: resolve_collisions: one row an item and modality; `first_codes` are those before collisions were resolved.
IDS: Schema = {
    "item": pl.UInt32,
    "modality": pl.String,
    "codes": pl.List(pl.UInt16),
    "first_codes": pl.List(pl.UInt16),
    "moved": pl.Boolean,
}

#: build_corpus: one sample a row; `item` is the target, `user` is null in item tasks. Where a teacher named the target
#: it is `taught`, and the row before is of the same history.
CORPUS: Schema = {
    "user": pl.UInt32,
    "task": pl.String,
    "item": pl.UInt32,
    "taught": pl.Boolean,
    "source": pl.List(pl.UInt16),
    "target": pl.List(pl.UInt16),
}

#: rank_*: the best items of each user, rank 1 first; `modality` is a member of collaborative.members where no modality
#: was ranked in.
RANKINGS: Schema = {
    "split": pl.String,
    "user": pl.UInt32,
    "modality": pl.String,
    "rank": pl.UInt16,
    "item": pl.UInt32,
    "score": pl.Float32,
}

#: rank_collaborative: how strongly each item calls for each other by SLIST, sorted; no rows where it is no member.
STRENGTHS: Schema = {"item": pl.UInt32, "next": pl.UInt32, "strength": pl.Float64}

#: evaluate: what a place in each ranking weighs where the fusion learns it, no rows otherwise. An item gets `held` for
#: being in a list, and `score` for each unit of its score above the list's lowest.
WEIGHTS: Schema = {"modality": pl.String, "score": pl.Float64, "held": pl.Float64}

#: evaluate: where each user's target stands in each ranking; `rank` is null where it is not in the list.
PER_USER: Schema = {
    "split": pl.String,
    "user": pl.UInt32,
    "ranking": pl.String,
    "item": pl.UInt32,
    "rank": pl.UInt16,
    "target_frequency": pl.UInt32,
    "history_length": pl.UInt32,
}
