"""Models: the shapes that decide how many bytes are read and how much is multiplied."""

from __future__ import annotations

from dataclasses import dataclass

from .names import CatalogError, find

__all__ = ["BYTES_PER_WEIGHT", "MODELS", "PRECISIONS", "CatalogError", "Model", "model"]

BYTES_PER_WEIGHT = {
    "fp32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5 + 2.0 / 128,  # one 16-bit scale for a group of 128, the default of GPTQ and AWQ (arXiv:2306.00978)
}
PRECISIONS = tuple(BYTES_PER_WEIGHT)
_KV_FACTOR = 2  # keys and values; PagedAttention, arXiv:2309.06180, section 2


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder-only transformer."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    """Width of the feed-forward block; of one expert in a mixture of experts."""
    vocab: int
    experts: int
    """Experts of a layer; 1 is a dense model."""
    experts_per_token: int
    gated_mlp: bool
    """Three matrices in the feed-forward block instead of two."""
    tied_embeddings: bool
    """The output head shares the embedding's weights."""
    source: str

    @property
    def attention_params(self) -> int:
        """Weights of one layer's four attention projections."""
        return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    @property
    def expert_params(self) -> int:
        """Weights of one feed-forward block."""
        return (3 if self.gated_mlp else 2) * self.hidden * self.ffn

    @property
    def head_params(self) -> int:
        """Weights of the output head."""
        return self.vocab * self.hidden

    @property
    def embedding_params(self) -> int:
        """Weights of the embedding and the output head; these stay in 16 bits in quantised checkpoints."""
        return self.head_params * (1 if self.tied_embeddings else 2)

    @property
    def layer_params(self) -> int:
        """Weights of one layer, router and norms included."""
        router = self.experts * self.hidden if self.experts > 1 else 0
        return self.attention_params + self.experts * self.expert_params + router + 2 * self.hidden

    @property
    def params(self) -> int:
        """All weights, counted from the shapes (biases and learned positions, below 0.2 %, are left out)."""
        return self.layers * self.layer_params + self.embedding_params + self.hidden

    def weight_bytes(self, precision: str) -> float:
        """Bytes of all weights; embedding and output head never go below 16 bits."""
        per_weight = bytes_per_weight(precision)
        return self.layers * self.layer_params * per_weight + self.embedding_params * max(per_weight, 2.0)

    def kv_bytes_per_token(self, kv_precision: str = "fp16") -> float:
        """Bytes that one token takes in the KV cache, over all layers and all KV heads."""
        return _KV_FACTOR * self.layers * self.kv_heads * self.head_dim * bytes_per_weight(kv_precision)


def bytes_per_weight(precision: str) -> float:
    """Bytes of one number; CatalogError for a precision that is not in `PRECISIONS`."""
    if precision not in BYTES_PER_WEIGHT:
        raise CatalogError(f"unknown precision {precision!r}; wanted one of {', '.join(PRECISIONS)}")
    return BYTES_PER_WEIGHT[precision]


_HF = "published Hugging Face config.json of the model"
_AIC = "ai-dynamo/aiconfigurator 095f58a, model_configs"
_BLIS = "inference-sim/inference-sim, model_configs"
_HELIX = "Thesys-lab/Helix-ASPLOS25, model config"
_VIDUR = "microsoft/vidur, vidur/config/model_config.py"
_G, _P = True, False  # gated or plain feed-forward block
_T, _U = True, False  # tied or untied embeddings

# fmt: off
_MODELS = (
    #     name                                layers hidden heads kv  dim   ffn    vocab  experts top  mlp tied source
    Model("facebook/opt-125m",                  12,   768,  12,  12,  64,  3072,  50272,   1, 1, _P, _T, _HF),
    Model("facebook/opt-6.7b",                  32,  4096,  32,  32, 128, 16384,  50272,   1, 1, _P, _T, _HF),
    Model("facebook/opt-13b",                   40,  5120,  40,  40, 128, 20480,  50272,   1, 1, _P, _T, _HF),
    Model("facebook/opt-66b",                   64,  9216,  72,  72, 128, 36864,  50272,   1, 1, _P, _T, _HF),
    Model("bigscience/bloom",                   70, 14336, 112, 112, 128, 57344, 250880,   1, 1, _P, _T, _HF),
    Model("huggyllama/llama-30b",               60,  6656,  52,  52, 128, 17920,  32000,   1, 1, _G, _U, _HELIX),
    Model("meta-llama/Llama-2-7b-hf",           32,  4096,  32,  32, 128, 11008,  32000,   1, 1, _G, _U, _BLIS),
    Model("meta-llama/Llama-2-13b-hf",          40,  5120,  40,  40, 128, 13824,  32000,   1, 1, _G, _U, _HF),
    Model("meta-llama/Llama-2-70b-hf",          80,  8192,  64,   8, 128, 28672,  32000,   1, 1, _G, _U, _HELIX),
    Model("meta-llama/Meta-Llama-3-8B",         32,  4096,  32,   8, 128, 14336, 128256,   1, 1, _G, _U, _VIDUR),
    Model("meta-llama/Meta-Llama-3-70B",        80,  8192,  64,   8, 128, 28672, 128256,   1, 1, _G, _U, _VIDUR),
    Model("meta-llama/Llama-3.1-8B",            32,  4096,  32,   8, 128, 14336, 128256,   1, 1, _G, _U, _AIC),
    Model("meta-llama/Llama-3.1-70B",           80,  8192,  64,   8, 128, 28672, 128256,   1, 1, _G, _U, _AIC),
    Model("meta-llama/Llama-3.1-405B",         126, 16384, 128,   8, 128, 53248, 128256,   1, 1, _G, _U, _AIC),
    Model("meta-llama/Llama-3.2-1B",            16,  2048,  32,   8,  64,  8192, 128256,   1, 1, _G, _T, _HF),
    Model("meta-llama/Llama-3.2-3B",            28,  3072,  24,   8, 128,  8192, 128256,   1, 1, _G, _T, _HF),
    Model("meta-llama/Llama-3.3-70B-Instruct",  80,  8192,  64,   8, 128, 28672, 128256,   1, 1, _G, _U, _HF),
    Model("internlm/internlm-20b",              60,  5120,  40,  40, 128, 13824, 103168,   1, 1, _G, _U, _VIDUR),
    Model("Qwen/Qwen-72B",                      80,  8192,  64,  64, 128, 24576, 152064,   1, 1, _G, _U, _VIDUR),
    Model("codellama/CodeLlama-34b-Instruct-hf", 48, 8192,  64,   8, 128, 22016,  32000,   1, 1, _G, _U, _BLIS),
    Model("01-ai/Yi-34B",                       60,  7168,  56,   8, 128, 20480,  64000,   1, 1, _G, _U, _BLIS),
    Model("mistralai/Mistral-7B-v0.1",          32,  4096,  32,   8, 128, 14336,  32000,   1, 1, _G, _U, _HF),
    Model("intfloat/e5-mistral-7b-instruct",    32,  4096,  32,   8, 128, 14336,  32000,   1, 1, _G, _T, _HF),
    Model("mistralai/Mixtral-8x7B-v0.1",        32,  4096,  32,   8, 128, 14336,  32000,   8, 2, _G, _U, _AIC),
    Model("Qwen/Qwen2.5-0.5B",                  24,   896,  14,   2,  64,  4864, 151936,   1, 1, _G, _T, _HF),
    Model("Qwen/Qwen2.5-1.5B",                  28,  1536,  12,   2, 128,  8960, 151936,   1, 1, _G, _T, _HF),
    Model("Qwen/Qwen2.5-3B",                    36,  2048,  16,   2, 128, 11008, 151936,   1, 1, _G, _T, _HF),
    Model("Qwen/Qwen2.5-7B",                    28,  3584,  28,   4, 128, 18944, 152064,   1, 1, _G, _U, _BLIS),
    Model("Qwen/Qwen2.5-14B",                   48,  5120,  40,   8, 128, 13824, 152064,   1, 1, _G, _U, _HF),
    Model("Qwen/Qwen2.5-32B",                   64,  5120,  40,   8, 128, 27648, 152064,   1, 1, _G, _U, _HF),
    Model("Qwen/Qwen2.5-72B",                   80,  8192,  64,   8, 128, 29568, 152064,   1, 1, _G, _U, _HF),
    Model("Qwen/Qwen2-7B",                      28,  3584,  28,   4, 128, 18944, 152064,   1, 1, _G, _U, _HF),
    Model("Qwen/Qwen2-72B",                     80,  8192,  64,   8, 128, 29568, 152064,   1, 1, _G, _U, _HF),
    Model("Qwen/Qwen3-0.6B",                    28,  1024,  16,   8, 128,  3072, 151936,   1, 1, _G, _T, _HF),
    Model("Qwen/Qwen3-Embedding-0.6B",          28,  1024,  16,   8, 128,  3072, 151669,   1, 1, _G, _T, _HF),
    Model("Qwen/Qwen3-1.7B",                    28,  2048,  16,   8, 128,  6144, 151936,   1, 1, _G, _T, _HF),
    Model("Qwen/Qwen3-4B",                      36,  2560,  32,   8, 128,  9728, 151936,   1, 1, _G, _T, _HF),
    Model("Qwen/Qwen3-8B",                      36,  4096,  32,   8, 128, 12288, 151936,   1, 1, _G, _U, _AIC),
    Model("Qwen/Qwen3-14B",                     40,  5120,  40,   8, 128, 17408, 151936,   1, 1, _G, _U, _BLIS),
    Model("Qwen/Qwen3-32B",                     64,  5120,  64,   8, 128, 25600, 151936,   1, 1, _G, _U, _AIC),
    Model("Qwen/Qwen3-30B-A3B",                 48,  2048,  32,   4, 128,   768, 151936, 128, 8, _G, _U, _HF),
    Model("Qwen/Qwen3-235B-A22B",               94,  4096,  64,   4, 128,  1536, 151936, 128, 8, _G, _U, _HF),
)
# fmt: on

MODELS = {entry.name: entry for entry in _MODELS}

# Fine-tuned releases share the shapes of their base.
_RELEASES = ("", "-hf", "-chat-hf", "-chat", "-instruct", "-base", "-fp8", "-instruct-fp8", "-instruct-2507")
_MORE_RELEASES = ("-thinking-2507", "-instruct-2507-fp8", "-thinking-2507-fp8", "-instruct-v0.1", "-instruct-v0.2")
_OLD_NAMES = {
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-3-70b": "meta-llama/Meta-Llama-3-70B",
    "meta-llama/llama-3-8b-instruct": "meta-llama/Meta-Llama-3-8B",
    "meta-llama/meta-llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B",
    "meta-llama/meta-llama-3.1-70b-instruct": "meta-llama/Llama-3.1-70B",
    "meta-llama/llama-3.3-70b": "meta-llama/Llama-3.3-70B-Instruct",
    "llama-3.3-70b": "meta-llama/Llama-3.3-70B-Instruct",
    "codellama-34b": "codellama/CodeLlama-34b-Instruct-hf",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "mixtral-8x7b": "mistralai/Mixtral-8x7B-v0.1",
}


def _aliases() -> dict[str, str]:
    """Full names, fine-tuned releases, and both without the organisation; lower case."""
    aliases = dict(_OLD_NAMES)
    for name in MODELS:
        stem = name.lower().removesuffix("-hf").removesuffix("-v0.1")
        for release in _RELEASES + _MORE_RELEASES:
            aliases.setdefault(stem + release, name)
            aliases.setdefault((stem + release).rsplit("/", 1)[1], name)
    return {**aliases, **{name.lower(): name for name in MODELS}}


_ALIASES = _aliases()


def model(name: str) -> Model:
    """The model called `name` ("meta-llama/Llama-3.1-8B", or short: "llama-3.1-8b"); CatalogError names the closest."""
    return find("model", name, MODELS, _ALIASES)
