"""A made-up checkpoint with the layer shapes of ChatGLM2-6B and random weights, to measure with."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import sentencepiece
import torch
import typer

from bench.prompts import separate, short
from chatglm2.checkpoint.original import OriginalConfig
from chatglm2.checkpoint.weights import original_shapes

SHAPES = OriginalConfig(
    num_layers=28,
    hidden_size=4096,
    ffn_hidden_size=13696,
    kv_channels=128,
    num_attention_heads=32,
    multi_query_group_num=2,
    padded_vocab_size=65024,
    seq_length=32768,
    layernorm_epsilon=1e-5,
)
"""config.json of ChatGLM2-6B."""

OUTPUT = "transformer.output_layer.weight"
PIECES = 600
FIRST_WITH_TEXT = 259
"""Pieces before it are control tokens and single bytes."""


def checkpoint(
    folder: Annotated[Path, typer.Argument(help="Where to put it; must not be there yet.")],
    layers: Annotated[int, typer.Option(min=1, help="ChatGLM2-6B has 28: 12.5 GB.")] = 28,
    shards: Annotated[int, typer.Option(min=1, help="Files that its weights are in.")] = 7,
) -> None:
    """Write an original ChatGLM2 checkpoint of random weights, for `compare` after `python -m chatglm2 convert`."""
    if folder.exists():
        raise typer.BadParameter(f"folder: {folder} is there already; name another one")
    write_checkpoint(folder, layers, shards)


def write_checkpoint(folder: Path, layers: int, shards: int) -> list[Path]:
    """An original checkpoint with random weights in float16, shard by shard; its weight files.

    Its answers are random words that never end before they must: the output layer is zero but for pieces with text.
    """
    folder.mkdir(parents=True)
    sizes = asdict(SHAPES) | {"num_layers": layers}
    fixed = {"model_type": "chatglm", "add_qkv_bias": True, "multi_query_attention": True, "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(sizes | fixed))
    (folder / "tokenizer.model").write_bytes(_sentencepiece())
    shapes = list(original_shapes(OriginalConfig(**sizes)).items())
    each = -(-len(shapes) // shards)
    weight_map: dict[str, str] = {}
    files = []
    for number in range(shards):
        part = shapes[number * each : (number + 1) * each]
        file = folder / f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        torch.save({key: _random(key, shape) for key, shape in part}, file)
        weight_map |= dict.fromkeys([key for key, _ in part], file.name)
        files.append(file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return files


def _random(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    device = "cuda" if torch.cuda.is_available() else "cpu"  # a minute for the CPU, nothing for a GPU
    weight = torch.randn(shape, dtype=torch.float16, device=device) * 0.02
    if key == OUTPUT:
        weight[:FIRST_WITH_TEXT] = weight[PIECES:] = 0
    return weight.cpu()


def _sentencepiece() -> bytes:
    """A small model of ChatGLM2's kind that knows the words of the prompts."""
    model = io.BytesIO()
    text = [short(number) for number in range(300)] + [line for n in range(5) for line in separate(n).splitlines()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return model.getvalue()
