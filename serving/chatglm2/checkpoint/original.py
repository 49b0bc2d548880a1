"""Reads the config of an original ChatGLM2 folder and refuses every relative that would not convert exactly."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatglm2.errors import CheckpointError

# Switches of the network: (key, the only value that is converted, what the original assumes where the key is missing).
SWITCHES = (
    ("rmsnorm", True, True),
    ("post_layer_norm", True, True),
    ("apply_residual_connection_post_layernorm", False, False),
    ("fp32_residual_connection", False, False),
    ("add_bias_linear", False, False),
    ("add_qkv_bias", True, False),
    ("multi_query_attention", True, False),
    ("original_rope", True, True),
    ("tie_word_embeddings", False, False),
)
USE_CHATGLM2 = "use the files of ChatGLM2-6B (THUDM/chatglm2-6b)"


@dataclass(frozen=True)
class OriginalConfig:
    """The sizes of the network, named as in the original config.json."""

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    kv_channels: int
    num_attention_heads: int
    multi_query_group_num: int
    padded_vocab_size: int
    seq_length: int
    layernorm_epsilon: float


def is_original(folder: Path) -> bool:
    """Whether the folder holds a model of the original ChatGLM family, convertible or not."""
    try:
        return _read_json(folder / "config.json").get("model_type") == "chatglm"
    except CheckpointError:
        return False


def read_original_config(folder: Path) -> OriginalConfig:
    """Raises CheckpointError that names what was found, unless it is a ChatGLM2 network in 16 or 32 bits."""
    path = folder / "config.json"
    config = _read_json(path)
    tokenizer_config = folder / "tokenizer_config.json"
    names = str(config.get("_name_or_path")).lower()
    if tokenizer_config.is_file():
        names += tokenizer_config.read_text(encoding="utf-8", errors="replace").lower()
    for found, wrong in _relatives(config, names).items():
        if wrong:
            raise CheckpointError(f"{path}: found {found}, which is not supported; {USE_CHATGLM2}")
    for key, wanted, default in SWITCHES:
        if config.get(key, default) != wanted:
            found = json.dumps(config[key]) if key in config else "nothing"
            raise CheckpointError(f"{path}: {key} is {found} where ChatGLM2 has {json.dumps(wanted)}; {USE_CHATGLM2}")
    return _sizes(config, path)


def _relatives(config: dict[str, Any], names: str) -> dict[str, bool]:
    model_type = config.get("model_type")
    return {
        f"model_type {model_type!r}": model_type != "chatglm",
        "a ChatGLM-1 model": "position_encoding_2d" in config or "inner_hidden_size" in config,
        "a GLM-4 model": "glm-4" in names or config.get("padded_vocab_size") == 151552,
        "a ChatGLM3 model": "chatglm3" in names or "<|assistant|>" in names,
        f"quantized weights (quantization_bit {config.get('quantization_bit')})": bool(config.get("quantization_bit")),
        f"a P-tuning prefix encoder (pre_seq_len {config.get('pre_seq_len')})": bool(config.get("pre_seq_len")),
        f"a long-context variant (rope_ratio {config.get('rope_ratio')})": config.get("rope_ratio", 1) != 1,
    }


def _sizes(config: dict[str, Any], path: Path) -> OriginalConfig:
    sizes = {}
    for name, kind in OriginalConfig.__annotations__.items():
        value = config.get(name)
        if not isinstance(value, kind | int) or isinstance(value, bool) or value <= 0:
            raise CheckpointError(f"{path}: {name} is {value!r}, not a positive {kind.__name__}; {USE_CHATGLM2}")
        sizes[name] = value
    if sizes["num_attention_heads"] % sizes["multi_query_group_num"]:
        raise CheckpointError(
            f"{path}: {sizes['num_attention_heads']} heads cannot share {sizes['multi_query_group_num']} groups; "
            "download config.json again"
        )
    return OriginalConfig(**sizes)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: not found; name the folder that holds the checkpoint") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no JSON object; download it again")
    return value
