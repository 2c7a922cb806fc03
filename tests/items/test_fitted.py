import numpy as np
import pytest

from tessera.errors import CheckpointError
from tessera.items.fitted import Fitted, load_fitted, save_fitted
from tessera.items.image_encoders import SIDE, DescriptorEncoder, described, fit_descriptors
from tessera.items.text_encoders import TfidfEncoder, tfidf

TEXTS = ["red mug", "Red, red vase!", "blue vase", "the blue mug", "green bowl", "a green vase, ä"]


def pixels(count):
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def test_texts_are_encoded_as_those_that_were_learned_from(tmp_path):
    learned = tfidf(TEXTS, dimensions=3)
    save_fitted(learned.encoder.fitted(), tmp_path)
    encoder = TfidfEncoder.from_fitted(load_fitted(tmp_path, kind="tfidf"))
    np.testing.assert_array_equal(encoder.encode(TEXTS), learned.encoder.encode(TEXTS))
    np.testing.assert_allclose(encoder.encode(TEXTS), learned.vectors, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(["mug of red"]), encoder.encode(TEXTS[:1]), atol=1e-6)
    assert not encoder.encode(["unheard"]).any()


def test_pictures_are_encoded_as_those_that_were_learned_from(tmp_path):
    features = described(pixels(9))
    encoder = fit_descriptors(features, dimensions=4)
    save_fitted(encoder.fitted(), tmp_path)
    again = DescriptorEncoder.from_fitted(load_fitted(tmp_path, kind="descriptors"))
    np.testing.assert_array_equal(again.encode(features), encoder.encode(features))
    np.testing.assert_allclose(again.encode(features[3:4]), encoder.encode(features)[3:4], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(again.encode(features), axis=1), 1, rtol=1e-5)


def test_an_encoder_that_learns_nothing_has_no_arrays(tmp_path):
    save_fitted(Fitted("open_clip"), tmp_path)
    assert load_fitted(tmp_path, kind="open_clip") == Fitted("open_clip", {}, [])


@pytest.mark.parametrize("break_it", ["config.json", "weights.safetensors", "kind", "words"])
def test_what_is_none_is_refused(tmp_path, break_it):
    save_fitted(Fitted("tfidf", {"rarity": np.ones(2)}, ["a", "b"]), tmp_path)
    if break_it == "words":
        (tmp_path / "config.json").write_text("[]")
    elif break_it != "kind":
        (tmp_path / break_it).unlink()
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_fitted(tmp_path, kind="descriptors" if break_it == "kind" else "tfidf")
