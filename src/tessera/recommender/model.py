"""The T5 that reads and writes semantic IDs: a plain `transformers` model that knows its vocabulary."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model as load_model_file
from transformers import T5Config, T5ForConditionalGeneration
from transformers.utils import SAFE_WEIGHTS_NAME
from transformers.utils.logging import disable_progress_bar

from tessera.errors import CheckpointError
from tessera.recommender.positions import ItemPositions
from tessera.recommender.vocabulary import END, PAD, Tokens, Vocabulary

#: In what the encoder counts how far apart two tokens are: in tokens, as a T5, or in items and slots.
Positions = Literal["tokens", "items"]


class Sizes(NamedTuple):
    """The shape of a T5, in the words of its paper (arXiv 1910.10683)."""

    d_model: int
    d_ff: int
    d_kv: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    dropout: float
    initializer_factor: float
    positions: Positions = "tokens"


def new_model(
    vocabulary: Vocabulary, ids: Mapping[str, Tokens], sizes: Sizes, *, seed: int
) -> T5ForConditionalGeneration:
    """Return a T5 with ReLU feed-forward layers over vocabulary for items with these IDs, its weights drawn from seed.

    ids maps a modality to the tokens (N, L) of all items.
    """
    config = T5Config(
        vocab_size=vocabulary.size,
        d_model=sizes.d_model,
        d_ff=sizes.d_ff,
        d_kv=sizes.d_kv,
        num_heads=sizes.heads,
        num_layers=sizes.encoder_layers,
        num_decoder_layers=sizes.decoder_layers,
        dropout_rate=sizes.dropout,
        initializer_factor=sizes.initializer_factor,
        feed_forward_proj="relu",
        pad_token_id=PAD,
        eos_token_id=END,
    )
    config.decoder_start_token_id = PAD
    config.tessera_vocabulary = vocabulary.fingerprint
    config.tessera_ids = ids_fingerprint(ids)
    config.tessera_positions = sizes.positions
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _blank_model(config, vocabulary)


def save_model(model: T5ForConditionalGeneration, folder: Path) -> None:
    """Write model into folder, for load_model and for `from_pretrained`."""
    disable_progress_bar()
    model.save_pretrained(folder)


def load_model(checkpoint: Path, vocabulary: Vocabulary, ids: Mapping[str, Tokens]) -> T5ForConditionalGeneration:
    """Return the model saved in the folder checkpoint, in evaluation mode.

    Raises CheckpointError where there is none, where weights are missing, or where it was trained on another
    vocabulary or other IDs.
    """
    if not (checkpoint / "config.json").is_file():
        raise CheckpointError(f"{checkpoint}: expected a T5 checkpoint, found no config.json")
    disable_progress_bar()
    try:
        config = T5Config.from_pretrained(checkpoint, local_files_only=True)
        _check_config(config, vocabulary, ids, checkpoint)
        if getattr(config, "tessera_positions", "tokens") == "tokens":
            loaded: Any = T5ForConditionalGeneration.from_pretrained(
                checkpoint, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            model, told = loaded
            if missing := sorted(told["missing_keys"]):
                raise CheckpointError(f"{checkpoint}: expected all weights of a T5, found no {missing[0]}")
        else:
            model = _blank_model(config, vocabulary)
            load_model_file(model, checkpoint / SAFE_WEIGHTS_NAME)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{checkpoint}: cannot be loaded: {error}") from error
    return model.eval()


def _blank_model(config: T5Config, vocabulary: Vocabulary) -> T5ForConditionalGeneration:
    """Return a model of config with weights drawn as T5 draws them."""
    model = T5ForConditionalGeneration(config)
    if config.tessera_positions == "items":
        positions = ItemPositions(vocabulary, heads=config.num_heads)
        torch.nn.init.normal_(positions.within.weight, std=config.initializer_factor * config.d_model**-0.5)
        model.encoder.item_positions = positions
    return model


def ids_fingerprint(ids: Mapping[str, Tokens]) -> str:
    """Return a digest of which item has which ID; ids maps a modality to the tokens (N, L) of all items."""
    digest = hashlib.sha256()
    for modality in sorted(ids):
        digest.update(f"{modality} {ids[modality].shape}".encode())
        digest.update(np.ascontiguousarray(ids[modality], dtype="<u2").tobytes())
    return digest.hexdigest()


def _check_config(config: T5Config, vocabulary: Vocabulary, ids: Mapping[str, Tokens], checkpoint: Path) -> None:
    found = getattr(config, "tessera_vocabulary", None)
    if found != vocabulary.fingerprint or config.vocab_size != vocabulary.size:
        raise CheckpointError(
            f"{checkpoint}: expected a model of the vocabulary {vocabulary.fingerprint[:12]} "
            f"({vocabulary.size} tokens), found one of {str(found)[:12]} ({config.vocab_size} tokens)"
        )
    expected, found = ids_fingerprint(ids), getattr(config, "tessera_ids", None)
    if found != expected:
        raise CheckpointError(
            f"{checkpoint}: expected a model of the semantic IDs {expected[:12]}, "
            f"found one of others, {str(found)[:12]}"
        )
