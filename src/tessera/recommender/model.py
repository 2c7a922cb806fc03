"""The T5 that reads and writes semantic IDs: a plain `transformers` model that knows its vocabulary."""

from pathlib import Path
from typing import NamedTuple

import torch
from transformers import T5Config, T5ForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

from tessera.errors import CheckpointError
from tessera.recommender.vocabulary import END, PAD, Vocabulary


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


def new_model(vocabulary: Vocabulary, sizes: Sizes, *, seed: int) -> T5ForConditionalGeneration:
    """Return a T5 with ReLU feed-forward layers over vocabulary, its weights drawn from seed."""
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
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return T5ForConditionalGeneration(config)


def save_model(model: T5ForConditionalGeneration, folder: Path) -> None:
    """Write model into folder, for load_model and for `from_pretrained`."""
    disable_progress_bar()
    model.save_pretrained(folder)


def load_model(checkpoint: Path, vocabulary: Vocabulary) -> T5ForConditionalGeneration:
    """Return the model saved in the folder checkpoint, in evaluation mode.

    Raises CheckpointError where there is none, or one that was trained on another vocabulary.
    """
    if not (checkpoint / "config.json").is_file():
        raise CheckpointError(f"{checkpoint}: expected a T5 checkpoint, found no config.json")
    disable_progress_bar()
    try:
        config = T5Config.from_pretrained(checkpoint, local_files_only=True)
        _check_vocabulary(config, vocabulary, checkpoint)
        model: T5ForConditionalGeneration = T5ForConditionalGeneration.from_pretrained(
            checkpoint, config=config, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint}: cannot be loaded: {error}") from error
    return model.eval()


def _check_vocabulary(config: T5Config, vocabulary: Vocabulary, checkpoint: Path) -> None:
    found = getattr(config, "tessera_vocabulary", None)
    if found != vocabulary.fingerprint or config.vocab_size != vocabulary.size:
        raise CheckpointError(
            f"{checkpoint}: expected a model of the vocabulary {vocabulary.fingerprint[:12]} "
            f"({vocabulary.size} tokens), found one of {str(found)[:12]} ({config.vocab_size} tokens)"
        )
