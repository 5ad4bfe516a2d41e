"""A Llama small enough to be made on the spot: a config and a tokenizer, no weights (`--load-format dummy`)."""

from __future__ import annotations

import json
from pathlib import Path

VOCABULARY = 512
"""Token ids of prompts lie below this."""
MAX_LENGTH = 4096


def make_tiny_model(folder: Path, layers: int = 2) -> Path:
    """Write the model's files into `folder` and return it; vLLM and transformers take it as a local model."""
    folder.mkdir(parents=True, exist_ok=True)
    special = {"<unk>": 0, "<s>": 1, "</s>": 2}
    words = special | {f"w{i}": i for i in range(len(special), VOCABULARY)}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 128,  # heads of 32: the smallest that vLLM's CPU attention has
        "intermediate_size": 256,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": MAX_LENGTH,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": word,
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for word, i in special.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": MAX_LENGTH,
        "clean_up_tokenization_spaces": False,
    }
    files = {"config.json": config, "tokenizer.json": tokenizer, "tokenizer_config.json": tokenizer_config}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder
