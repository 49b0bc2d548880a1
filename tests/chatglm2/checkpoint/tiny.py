"""Makes tiny original ChatGLM2 checkpoints and SentencePiece models, and texts that are hard for tokenizers."""

import io
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file

from chatglm2.checkpoint.original import OriginalConfig
from chatglm2.checkpoint.tokenizer import APPENDED, PREFIX, RESERVED
from chatglm2.checkpoint.weights import ROTARY, original_shapes
from chatglm2.detokenizer import MARK

CONFIG: dict[str, Any] = {
    "model_type": "chatglm",
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "kv_channels": 16,
    "num_attention_heads": 4,
    "multi_query_group_num": 2,
    "padded_vocab_size": 704,
    "seq_length": 512,
    "layernorm_epsilon": 1e-5,
    "add_qkv_bias": True,
    "multi_query_attention": True,
    "torch_dtype": "float16",
}
WORDS = [
    *(
        "hello",
        "world",
        "sop",
        "eop",
        "gMASK",
        "def",
        "return",
        "version",
        "spaces",
        "aaaa",
        "====",
        "----",
        "<n>",
        "</s>",
    ),
    *(
        "你好",
        "世界",
        "数据仓库",
        "作业调度",
        "工具",
        "问：",
        "答：",
        "，",
        "。",
        "１２３",
        "（是）",
        "\t",
        "0",
        "2023",
    ),
]
FRAGMENTS = [
    *WORDS,
    *(
        "",
        " ",
        "  ",
        "     ",
        "\n",
        "\n\n",
        "\r\n",
        "\u3000",
        "\u00a0",
        "\u200b",
        "\u202e",
        "\ufeff",
        "\x00",
        "\x1b",
        "\x7f",
    ),
    *(
        "🙂",
        "👩\u200d👩\u200d👧",
        "é",
        "e\u0301",
        "ﬀ",
        "Ⅳ",
        "𠮷",
        "ＡＢＣ",
        "▁",
        "▁▁",
        "<0x0A>",
        "<0x41>",
        "\U0010ffff",
    ),
    *("<unk>", "<s>", "[MASK]", "[gMASK]", "[sMASK]", "[gMASK] sop", "\ufdd0", "\ufdd1", "\ufdd2", "\ufffd"),
    *("def f(x):\n    return x + 1\n", "aaaaaaa", "ababab", "x" * 40),
    *(PREFIX, *(MARK + name for name in RESERVED + APPENDED)),
]


def train_sentencepiece(**changes: Any) -> bytes:
    """A model of ChatGLM2's kind (or one changed from it), in which "sop" and "eop" are ordinary pieces too."""
    pick = random.Random(0)
    lines = [" ".join(pick.choices(WORDS, k=8)) + "".join(pick.choices(WORDS, k=8)) for _ in range(400)]
    options: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 600,
        "hard_vocab_limit": False,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "split_by_whitespace": False,
        "split_by_unicode_script": False,
        "split_digits": False,
        "num_threads": 1,
        "minloglevel": 2,
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **(options | changes))
    return model.getvalue()


def original_tensors(config: dict[str, Any], dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """Random weights under the original names, the rotary table included."""
    random_numbers = torch.Generator().manual_seed(0)
    sizes = OriginalConfig(**{name: config[name] for name in OriginalConfig.__annotations__})
    shapes = original_shapes(sizes) | {ROTARY: (config["kv_channels"] // 4,)}
    return {key: (torch.randn(shape, generator=random_numbers) * 0.1).to(dtype) for key, shape in shapes.items()}


def write_original(
    folder: Path, tensors: dict[str, torch.Tensor], model: Path, config: dict[str, Any] = CONFIG, suffix: str = "bin"
) -> Path:
    """An original checkpoint of three shards: config, weights and their index, SentencePiece model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(model, folder / "tokenizer.model")
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(_thirds(list(tensors)), start=1):
        name = f"{stem}-{number:05}-of-00003.{suffix}"
        weight_map |= dict.fromkeys(keys, name)
        write_shard(folder / name, {key: tensors[key] for key in keys})
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def _thirds(keys: list[str]) -> list[list[str]]:
    size = -(-len(keys) // 3)
    return [keys[:size], keys[size : 2 * size], keys[2 * size :]]


def write_shard(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


def hard_texts(count: int, pieces: list[str]) -> Iterator[str]:
    """Texts of fragments, of any Unicode characters, of a tiny alphabet (where merges overlap), and of whole pieces."""
    pick = random.Random(0)
    ranges = (0, 0x80), (0x4E00, 0xA000), (0, 0xD800), (0xE000, 0x110000)
    makers = (
        lambda: "".join(pick.choices(FRAGMENTS, k=pick.randrange(9))),
        lambda: "".join(chr(pick.randrange(*pick.choice(ranges))) for _ in range(pick.randrange(20))),
        lambda: "".join(pick.choices(" ab=\n", k=pick.randrange(30))),
        lambda: "".join(pick.choices(pieces, k=pick.randrange(10))).replace("▁", pick.choice(" ▁")),
    )
    return (pick.choice(makers)() for _ in range(count))


def is_private(text: str) -> bool:
    """The texts that the converted tokenizer reads as special, on purpose."""
    return text.startswith(PREFIX) or text in {MARK + name for name in RESERVED + APPENDED}
