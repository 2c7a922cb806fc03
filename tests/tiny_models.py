"""Checkpoints small enough to make in a test: real architectures of `transformers` and `open_clip`, random weights."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

SPECIAL = ["[UNK]", "<s>", "</s>", "[CLS]", "[SEP]", "[PAD]"]
COLOURS = ["red", "green", "blue"]
WORDS = [*SPECIAL, *COLOURS, "mug", "vase", "lamp", "kitchen", "hall", "small", "large", "a", "the", "of", "for", ","]
POSITIONS = 24

CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


def bert_like(folder: Path) -> Path:
    """An encoder whose texts are [CLS] words [SEP]."""
    tokenizer = words_tokenizer("[CLS] $A [SEP]", pad_token="[PAD]")
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
    )
    return saved(folder, tokenizer, BertModel(config))


def llama_like(folder: Path) -> Path:
    """A decoder whose texts are <s> words, without a padding token."""
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        bos_token_id=1,
        eos_token_id=2,
    )
    return saved(folder, words_tokenizer("<s> $A"), LlamaForCausalLM(config))


def t5_like(folder: Path) -> Path:
    """An encoder-decoder whose texts are words </s>."""
    tokenizer = words_tokenizer("$A </s>", pad_token="[PAD]")
    config = T5Config(
        vocab_size=len(WORDS),
        d_model=12,
        d_kv=6,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return saved(folder, tokenizer, T5ForConditionalGeneration(config))


def words_tokenizer(template: str, **special: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    added = [(word, WORDS.index(word)) for word in template.split() if word != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=added)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **special)


def saved(folder, tokenizer, model) -> Path:
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def clip_folder(folder: Path, *, embed_dim: int = CLIP["embed_dim"]) -> Path:
    """An `open_clip` model with its weights, as `local-dir:FOLDER` reads it."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    architecture = CLIP | {"embed_dim": embed_dim}
    weights = open_clip.CLIP(**architecture).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "open_clip_model.safetensors")
    config = {"model_cfg": architecture, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder
