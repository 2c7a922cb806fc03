"""Embed items' texts by what the section `text` names."""

from pathlib import Path

import polars as pl

from tessera.encoders.embedded import Embedded
from tessera.items.fitted import Fitted
from tessera.items.text_encoders import Texts, TfidfEncoder, by_item, item_texts, mean_pooled, tfidf
from tessera.items.vectors import precomputed
from tessera.params import Text
from tessera.places import at_home, found_at_home
from tessera.runtime import accelerator_on, progress


def embed_texts(
    catalogue: pl.DataFrame, text: Text, *, device: str, known: Fitted | None = None, scratch: Path | None = None
) -> Embedded:
    """Return the vectors of the items of catalogue (key, title, description).

    What TF-IDF knows already of other items is taken as it is; without it, it learns from these. The vectors are in
    memory or, if a folder scratch is given, in a file there.
    """
    nothing_learned = Fitted(text.encoder)
    if text.encoder == "precomputed":
        return Embedded(precomputed(at_home(Path(text.path)), catalogue["key"], scratch=scratch), {}, nothing_learned)
    texts = item_texts(catalogue, fields=text.fields)
    if text.encoder == "tfidf":
        return _by_words(texts, text, items=catalogue.height, known=known)
    read = mean_pooled(
        texts.texts,
        model=found_at_home(text.model, watch=text.watch, key="text.watch") if text.model else None,
        max_tokens=text.max_tokens,
        batch_size=text.batch_size,
        trust_remote_code=text.trust_remote_code,
        accelerator=accelerator_on(device, precision="auto"),
        progress=progress,
        scratch=scratch,
    )
    counts = {"mean_tokens": float(read.tokens.mean()), "truncated": float(read.truncated.mean())}
    vectors = by_item(read.vectors, texts.rows, items=catalogue.height, scratch=scratch)
    return Embedded(vectors, counts, nothing_learned)


def _by_words(texts: Texts, text: Text, *, items: int, known: Fitted | None) -> Embedded:
    if known is not None:
        vectors = TfidfEncoder.from_fitted(known).encode(texts.texts)
        return Embedded(by_item(vectors, texts.rows, items=items), {}, known)
    learned = tfidf(texts.texts, dimensions=text.dimensions)
    return Embedded(by_item(learned.vectors, texts.rows, items=items), {}, learned.encoder.fitted())
