"""The tensors of ChatGLM2 under their native names, as transformers' `GlmForCausalLM` has them.

Every key of the original is either mapped or refused, and every shape is checked against the config.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from chatglm2.checkpoint.original import OriginalConfig
from chatglm2.errors import CheckpointError

ROTARY = "transformer.rotary_pos_emb.inv_freq"  # computed from the config instead
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
OUTER = {
    "transformer.embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "transformer.encoder.final_layernorm.weight": "model.norm.weight",
    "transformer.output_layer.weight": "lm_head.weight",
}
LAYER = {
    "input_layernorm.weight": "input_layernorm.weight",
    "post_attention_layernorm.weight": "post_attention_layernorm.weight",
    "self_attention.dense.weight": "self_attn.o_proj.weight",
    "mlp.dense_h_to_4h.weight": "mlp.gate_up_proj.weight",
    "mlp.dense_4h_to_h.weight": "mlp.down_proj.weight",
}
QKV = "self_attention.query_key_value."


def native_config(config: OriginalConfig, dtype: torch.dtype) -> dict[str, Any]:
    """config.json of the native checkpoint."""
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": config.padded_vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.multi_query_group_num,
        "head_dim": config.kv_channels,
        "max_position_embeddings": config.seq_length,
        "rms_norm_eps": config.layernorm_epsilon,
        "hidden_act": "silu",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def original_shapes(config: OriginalConfig) -> dict[str, tuple[int, ...]]:
    """Every key of the original checkpoint but ROTARY, with the shape the config gives it."""
    hidden, vocabulary = config.hidden_size, config.padded_vocab_size
    heads = config.num_attention_heads * config.kv_channels
    rows = sum(_qkv_rows(config))
    layer = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        QKV + "weight": (rows, hidden),
        QKV + "bias": (rows,),
        "self_attention.dense.weight": (hidden, heads),
        "mlp.dense_h_to_4h.weight": (2 * config.ffn_hidden_size, hidden),
        "mlp.dense_4h_to_h.weight": (hidden, config.ffn_hidden_size),
    }
    outer = zip(OUTER, ((vocabulary, hidden), (hidden,), (vocabulary, hidden)), strict=True)
    return dict(outer) | {
        f"transformer.encoder.layers.{i}.{key}": shape for i in range(config.num_layers) for key, shape in layer.items()
    }


def check_keys(found: Iterable[str], expected: Iterable[str], path: Path) -> None:
    """Raises CheckpointError for keys that are left over and for keys that are missing in the whole checkpoint."""
    found, expected = set(found), set(expected)
    if extra := found - expected - {ROTARY}:
        raise CheckpointError(f"{path}: {len(extra)} unknown keys, such as {min(extra)}{_hint(extra)}")
    if missing := expected - found:
        raise CheckpointError(f"{path}: {len(missing)} keys missing, such as {min(missing)}; add the missing shards")


def convert_tensors(tensors: Mapping[str, torch.Tensor], config: OriginalConfig, path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one shard under their native names; views of the same memory wherever possible."""
    shapes = original_shapes(config)
    check_keys([*tensors, *shapes], shapes, path)
    native: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        if key != ROTARY:
            _check_tensor(key, tensor, shapes[key], path)
            native |= {name: part.contiguous() for name, part in _renamed(key, tensor, config)}
    return native


def _renamed(key: str, tensor: torch.Tensor, config: OriginalConfig) -> Iterable[tuple[str, torch.Tensor]]:
    if key in OUTER:
        return [(OUTER[key], tensor)]
    layer, _, part = key.removeprefix("transformer.encoder.layers.").partition(".")
    if part in LAYER:
        return [(f"model.layers.{layer}.{LAYER[part]}", tensor)]
    kind = part.removeprefix(QKV)  # weight or bias
    names = (f"model.layers.{layer}.self_attn.{name}_proj.{kind}" for name in "qkv")
    return zip(names, torch.split(tensor, _qkv_rows(config)), strict=True)


def _qkv_rows(config: OriginalConfig) -> list[int]:
    heads, groups, size = config.num_attention_heads, config.multi_query_group_num, config.kv_channels
    return [heads * size, groups * size, groups * size]


def _check_tensor(key: str, tensor: torch.Tensor, shape: tuple[int, ...], path: Path) -> None:
    if tensor.dtype not in DTYPES:
        raise CheckpointError(f"{path}: {key} is {tensor.dtype}, a quantized checkpoint; use the one in 16 bits")
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"{path}: {key} has the shape {tuple(tensor.shape)}, but config.json asks for {shape}; "
            "use weights and config.json of the same checkpoint"
        )


def _hint(extra: set[str]) -> str:
    if any("prefix_encoder" in key for key in extra):
        return " (a P-tuning prefix encoder); use the checkpoint without it"
    if any(key.endswith("weight_scale") for key in extra):
        return " (quantized weights); use the checkpoint in 16 bits"
    return "; use weights and config.json of the same checkpoint"
