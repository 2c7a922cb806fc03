"""Embed what is said of items: by the words they share, or by any text model of the `transformers` library.

An item's text is its title and its description, `together` as one text or `apart` as two whose vectors are averaged;
an item with neither is absent.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from tessera.errors import CheckpointError, DataError, ParamsError, SourceError
from tessera.items.encoding import Part, dtype_on, encode_all
from tessera.items.fitted import Fitted
from tessera.items.progress import Progress, silently
from tessera.items.vectors import Vectors, parts_of, room

if TYPE_CHECKING:
    from accelerate import Accelerator

FIELDS = ("title", "description")

#: TF-IDF knows this many words at most, the most frequent; a word of one text tells it nothing about another.
VOCABULARY = 65536
MIN_TEXTS = 2
#: Of the randomised SVD. Its start is fixed: it converges, and a seed here would make each seed embed everything anew.
SVD_ITERATIONS = 7
SVD_START = 0
#: Singular values below this share of the largest are rounding, not data.
RANK_TOLERANCE = 1e-5

#: Signs of Chinese and Japanese, which are written without spaces. A word is one of these, or other letters and digits
#: that stand together.
SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = rf"[{SIGNS}]|[^\W{SIGNS}]+"

#: Weights that mean pooling does without: a checkpoint may lack them.
UNUSED_WEIGHTS = ("pooler.", "decoder.")

#: Texts given to the tokenizer at once.
TOKENISED_TEXTS = 4096


class Texts(NamedTuple):
    """The T texts of N items; none is empty."""

    texts: list[str]  # T
    rows: NDArray[np.int64]  # (T,) the item's row that each belongs to


class MeanPooled(NamedTuple):
    """What a text model makes of T texts."""

    vectors: NDArray[np.float32]  # (T, D)
    tokens: NDArray[np.int64]  # (T,) how many the model read
    truncated: NDArray[np.bool_]  # (T,) whether there were more


class Tokens(NamedTuple):
    """The tokens of T texts, end to end: text t has ids[starts[t] : starts[t + 1]]."""

    ids: NDArray[np.int32]  # (sum of lengths,)
    starts: NDArray[np.int64]  # (T + 1,)
    truncated: NDArray[np.bool_]  # (T,)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text (T,)."""
        return np.diff(self.starts)

    def padded(self, rows: NDArray[np.int64], *, filler: int) -> NDArray[np.int64]:
        """Return the tokens of the texts rows (B,), filled up on the right: (B, T) with T the longest."""
        lengths = self.lengths[rows]
        block = np.full((len(rows), lengths.max()), filler, np.int64)
        block[mask_of(lengths)] = np.concatenate([self.ids[self.starts[row] : self.starts[row + 1]] for row in rows])
        return block


class TfidfEncoder(NamedTuple):
    """What `tfidf` has learned: W words, how rare each is, and the D directions that are kept."""

    words: Sequence[str]  # W
    rarity: NDArray[np.floating[Any]]  # (W,) inverse document frequencies
    directions: NDArray[np.float32]  # (D, W) right singular vectors

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return texts as vectors (T, D): where the fitted texts lie, a text of theirs lies too, but for rounding."""
        words = _word_counter(vocabulary=self.words)
        words.idf_ = self.rarity
        return _of_length_one(words.transform(texts) @ self.directions.T)

    def fitted(self) -> Fitted:
        """Return what from_fitted reads."""
        return Fitted("tfidf", {"rarity": self.rarity, "directions": self.directions}, self.words)

    @classmethod
    def from_fitted(cls, fitted: Fitted) -> "TfidfEncoder":
        """Return the encoder that `fitted` was of."""
        return cls(fitted.words, fitted.arrays["rarity"], fitted.arrays["directions"])


class LearnedTexts(NamedTuple):
    """What TF-IDF makes of T texts, and what makes the same of others."""

    vectors: NDArray[np.float32]  # (T, D)
    encoder: TfidfEncoder


def item_texts(items: pl.DataFrame, *, fields: Literal["together", "apart"]) -> Texts:
    """Return the texts of items (title, description), without those that are empty.

    Title "Oud" and no description give the one text "Oud", either way.

    Raises DataError where no item has a text.
    """
    told = items.select(pl.col(name).str.strip_chars().replace("", None) for name in FIELDS)
    if fields == "together":
        told = told.select(text=pl.concat_str(FIELDS, separator="\n", ignore_nulls=True).replace("", None))
    texts = told.with_row_index("row").unpivot(index="row").drop_nulls("value")
    if texts.is_empty():
        raise DataError(f"text: expected at least one item with a title or a description, found none in {items.height}")
    return Texts(texts["value"].to_list(), texts["row"].to_numpy().astype(np.int64))


def by_item(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], *, items: int, scratch: Path | None = None
) -> Vectors:
    """Return the mean vector of each item's texts, for vectors (T, D) of texts that belong to rows (T,).

    A vector of zeros is that of a text in which the encoder found nothing. It does not count.
    """
    telling = np.flatnonzero(vectors.any(axis=1))
    texts = np.bincount(rows[telling], minlength=items)
    weights = (1 / texts[rows[telling]]).astype(np.float32)
    mean = sp.csr_array((weights, (rows[telling], telling)), shape=(items, len(vectors)))
    means = room(items, vectors.shape[1], scratch=scratch)
    for part in parts_of(means):
        means[part] = mean[part] @ vectors
    return Vectors(means, texts > 0)


def tfidf(texts: Sequence[str], *, dimensions: int) -> LearnedTexts:
    """Return texts as vectors (T, D) of length 1: TF-IDF of their words, reduced by a truncated SVD (LSA).

    D is dimensions, or the rank of the TF-IDF matrix where that is less. A text without a known word is all zeros.
    Words are lower-cased, weighted 1 + log(count), and left out where English uses them everywhere.

    Raises DataError where no word occurs in two texts.
    """
    from sklearn.utils.extmath import randomized_svd

    words = _word_counter(min_df=MIN_TEXTS, max_features=VOCABULARY)
    try:
        weights = words.fit_transform(texts)
    except ValueError as error:
        raise DataError(f"TF-IDF: expected words that several texts share, found none in {len(texts)}") from error
    width = min(dimensions, *weights.shape)
    left, values, right = randomized_svd(weights, width, n_iter=SVD_ITERATIONS, random_state=SVD_START)
    telling = values > RANK_TOLERANCE * values.max()
    encoder = TfidfEncoder(words.get_feature_names_out().tolist(), words.idf_, right[telling].astype(np.float32))
    return LearnedTexts(_of_length_one((left * values)[:, telling]), encoder)


def _word_counter(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        sublinear_tf=True,
        stop_words="english",
        token_pattern=WORD,
        dtype=np.float32,
        **options,
    )


def _of_length_one(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    from sklearn.preprocessing import normalize

    return np.asarray(normalize(vectors), np.float32)


def mean_pooled(
    texts: Sequence[str],
    *,
    model: str | None,
    max_tokens: int,
    batch_size: int,
    trust_remote_code: bool,
    accelerator: "Accelerator",
    progress: Progress = silently,
    scratch: Path | None = None,
) -> MeanPooled:
    """Return the mean of the model's last hidden states over each text's tokens (no padding): vectors (T, D).

    model is a name or a folder of any text model: of an encoder-decoder the encoder is used. Texts are cut after
    max_tokens, special tokens among them, and read in batches of similar length, the longest first, so that memory
    that does not suffice shows at once. On a GPU with bf16 the model computes in it; the mean is taken in fp32.

    Raises ParamsError where no model is named or max_tokens does not fit it, SourceError where it cannot be
    loaded, CheckpointError where it lacks weights.
    """
    tokenizer, network = _loaded(model, trust_remote_code=trust_remote_code, accelerator=accelerator)
    _check_max_tokens(max_tokens, tokenizer, network)
    tokens = tokenised(texts, tokenizer, max_tokens=max_tokens)
    longest_first = np.argsort(-tokens.lengths, kind="stable")
    not_empty = longest_first[: np.count_nonzero(tokens.lengths)]
    batches = [not_empty[start : start + batch_size] for start in range(0, len(not_empty), batch_size)]
    filler = tokenizer.pad_token_id or 0

    def encode(rows: NDArray[np.int64]) -> Part:
        return Part(rows, _pooled(network, tokens.padded(rows, filler=filler), tokens.lengths[rows]))

    found = encode_all(
        batches,
        encode,
        rows=len(texts),
        count=len(batches),
        title="texts",
        accelerator=accelerator,
        progress=progress,
        scratch=scratch,
    )
    return MeanPooled(found.vectors, tokens.lengths, tokens.truncated)


def tokenised(texts: Sequence[str], tokenizer: Any, *, max_tokens: int) -> Tokens:
    """Return the tokens of texts, at most max_tokens of each."""
    ids, lengths, truncated = [np.zeros(0, np.int32)], [0], np.zeros(len(texts), np.bool_)
    for start in range(0, len(texts), TOKENISED_TEXTS):
        some = texts[start : start + TOKENISED_TEXTS]
        cut = _ids(tokenizer, some, truncation=True, max_length=max_tokens)
        full = [place for place, text in enumerate(cut) if len(text) == max_tokens]
        whole = _ids(tokenizer, [some[place] for place in full], truncation=False) if full else []
        truncated[start + np.array(full, np.int64)] = [len(text) > max_tokens for text in whole]
        lengths += [len(text) for text in cut]
        ids.append(np.concatenate([np.array(text, np.int32) for text in cut]))
    return Tokens(np.concatenate(ids), np.cumsum(lengths), truncated)


def mask_of(lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where rows of these lengths (B,) hold a token and not padding: (B, T), T the longest."""
    return np.asarray(np.arange(lengths.max()) < lengths[:, np.newaxis])


def _ids(tokenizer: Any, texts: Sequence[str], **options: Any) -> list[list[int]]:
    read = tokenizer(list(texts), return_attention_mask=False, return_token_type_ids=False, verbose=False, **options)
    return list(read["input_ids"])


def _pooled(network: Any, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the mean hidden states (B, D) of tokens ids (B, T), of which the first lengths (B,) count."""
    import torch

    tokens = torch.from_numpy(ids).to(network.device)
    mask = torch.from_numpy(mask_of(lengths)).to(network.device)
    with torch.inference_mode():
        hidden = network(input_ids=tokens, attention_mask=mask.long()).last_hidden_state.float()  # (B, T, D)
        mean = (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    vectors: NDArray[np.float32] = mean.cpu().numpy()
    return vectors


def _loaded(model: str | None, *, trust_remote_code: bool, accelerator: "Accelerator") -> tuple[Any, Any]:
    if model is None:
        raise ParamsError("text.model: expected the name or folder of a text model, found nothing")
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
        network, report = AutoModel.from_pretrained(
            model, dtype=dtype_on(accelerator), trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise SourceError(
            f"text.model: expected the name or folder of a text model, found {model!r}: {error}"
        ) from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(UNUSED_WEIGHTS))
    if missing:
        raise CheckpointError(f"{model}: expected all weights, found {len(missing)} missing, such as {missing[0]}")
    if network.config.is_encoder_decoder:
        network = network.get_encoder()
    network.config.use_cache = False  # keys and values of each layer would be kept, and never used
    return tokenizer, network.eval().to(accelerator.device)


def _positions(network: Any) -> int | None:
    """Return how many tokens network has positions for, and None where they have no end."""
    positions: int | None = getattr(network.config, "max_position_embeddings", None)
    learned = next((each for name, each in network.named_modules() if name.endswith("position_embeddings")), None)
    padding = getattr(learned, "padding_idx", None)
    # RoBERTa and its kin count positions from after the one of padding.
    return positions if positions is None or padding is None else positions - padding - 1


def _check_max_tokens(max_tokens: int, tokenizer: Any, network: Any) -> None:
    special = tokenizer.num_special_tokens_to_add()
    most = min(tokenizer.model_max_length, _positions(network) or max_tokens)
    if not special < max_tokens <= most:
        raise ParamsError(
            f"text.max_tokens: expected more than {special} (the model's special tokens) and at most {most} "
            f"(what the model takes), found {max_tokens}"
        )
