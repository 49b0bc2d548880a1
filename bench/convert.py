"""Memory and time of converting a checkpoint with the layer shapes of ChatGLM2-6B, against copying its files."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import psutil
import sentencepiece
import torch
import typer
from rich.console import Console
from rich.table import Table

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


@dataclass(frozen=True)
class Run:
    """One way of getting the files to another folder."""

    seconds: float
    anonymous: int = 0
    """Most memory that was no mapped file, in bytes."""


def conversion(
    layers: Annotated[int, typer.Option(help="Layers of the made-up checkpoint; ChatGLM2-6B has 28.")] = 8,
    shards: Annotated[int, typer.Option(help="Files that its weights are in.")] = 3,
    folder: Annotated[Path | None, typer.Option(help="Where to put it; needs room for three copies.")] = None,
) -> None:
    """Convert a made-up checkpoint in a process of its own, copy the same files, and print what each took."""
    with tempfile.TemporaryDirectory(prefix="convert-", dir=folder) as name:
        source = Path(name) / "original"
        files = write_checkpoint(source, layers, shards)
        sizes = [file.stat().st_size for file in files]
        copied = _copy(files, Path(name) / "copy")
        converted = _convert(source, Path(name) / "native")
    table = Table("", "seconds", "GB/s", "peak memory (GB)", title=f"{layers} layers, {sum(sizes) / 1e9:.2f} GB")
    for label, run in (("copy and sync", copied), ("convert", converted)):
        speed = sum(sizes) / 1e9 / run.seconds
        table.add_row(label, f"{run.seconds:.1f}", f"{speed:.2f}", f"{run.anonymous / 1e9:.2f}")
    console = Console()
    console.print(table)
    times, memory = converted.seconds / copied.seconds, converted.anonymous / max(sizes)
    console.print(f"largest of {shards} shards: {max(sizes) / 1e9:.2f} GB")
    console.print(f"converting took {times:.1f} times as long as copying, and {memory:.2f} shards of memory")


def write_checkpoint(folder: Path, layers: int, shards: int) -> list[Path]:
    """An original checkpoint with random weights in float16, shard by shard; its weight files."""
    folder.mkdir()
    sizes = asdict(SHAPES) | {"num_layers": layers}
    fixed = {"model_type": "chatglm", "add_qkv_bias": True, "multi_query_attention": True, "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(sizes | fixed))
    (folder / "tokenizer.model").write_bytes(_sentencepiece())
    shapes = list(original_shapes(OriginalConfig(**sizes)).items())
    each = -(-len(shapes) // shards)
    weight_map: dict[str, str] = {}
    files = []
    for number in range(shards):
        part = dict(shapes[number * each : (number + 1) * each])
        file = folder / f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        torch.save({key: torch.randn(shape, dtype=torch.float16) * 0.02 for key, shape in part.items()}, file)
        weight_map |= dict.fromkeys(part, file.name)
        files.append(file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return files


def _sentencepiece() -> bytes:
    """A small model of ChatGLM2's kind."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["weights and memory", "time and disk", "one shard at a time"] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=320,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return model.getvalue()


def _copy(files: list[Path], folder: Path) -> Run:
    folder.mkdir()
    started = time.perf_counter()
    for file in files:
        shutil.copyfile(file, folder / file.name)
        with (folder / file.name).open("rb") as copy:
            os.fsync(copy.fileno())
    return Run(time.perf_counter() - started)


def _convert(source: Path, destination: Path) -> Run:
    started, most = time.perf_counter(), 0
    command = [sys.executable, "-m", "chatglm2", "convert", str(source), str(destination)]
    with subprocess.Popen(command) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            memory = watched.memory_info()
            most = max(most, memory.rss - getattr(memory, "shared", 0))
            time.sleep(0.02)
    if process.returncode:
        raise typer.Exit(process.returncode)
    return Run(time.perf_counter() - started, most)
