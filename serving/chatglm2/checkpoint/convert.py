"""Original ChatGLM2 folder -> native folder for transformers and vLLM, shard by shard.

The native folder appears at once and whole, by a rename: an interrupted run leaves none, and the next run starts anew.
"""

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file

from chatglm2.checkpoint.index import INDEXES, list_shards
from chatglm2.checkpoint.manifest import MANIFEST, is_made_from, manifest
from chatglm2.checkpoint.original import OriginalConfig, read_original_config
from chatglm2.checkpoint.shards import read_shard, refuse_lfs_pointer
from chatglm2.checkpoint.tokenizer import write_tokenizer
from chatglm2.checkpoint.weights import check_keys, convert_tensors, native_config, original_shapes
from chatglm2.errors import CheckpointError
from chatglm2.files import alone_in, opened, sha256


def convert(source: Path, destination: Path, *, console: Console | None = None) -> None:
    """Make `destination` the native form of the original checkpoint in `source`; nothing to do if it is that already.

    A native folder made from other files is replaced. Raises CheckpointError, before anything is written where it can
    be seen, when the source is not a whole ChatGLM2 checkpoint or `destination` is a folder of something else.
    """
    console = console or Console(stderr=True)
    source, destination = source.expanduser().absolute(), destination.expanduser().absolute()
    try:
        config = read_original_config(source)
        shards, keys = list_shards(source)
        check_keys(keys or original_shapes(config), original_shapes(config), source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(destination.parent, console):
            if is_made_from(destination, _source_files(source, shards)):
                console.out(f"{destination} is converted already")
            else:
                _refuse_full_disk(destination.parent, shards)
                _convert(source, destination, config, shards, console)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or destination}: {error.strerror or error}; nothing was converted"
        ) from error


def _convert(source: Path, destination: Path, config: OriginalConfig, shards: list[Path], console: Console) -> None:
    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _write_tokenizer(source, partial, config)
        dtype, checksums = _write_weights(shards, partial, config, console)
        _write_json(partial / "config.json", native_config(config, dtype))
        _write_json(partial / "generation_config.json", {"eos_token_id": 2, "pad_token_id": 0})
        console.out("writing what is still in memory to the disk")
        _write_json(partial / MANIFEST, manifest(partial, _source_files(source, shards), checksums))
        _replace(partial, destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    console.out(f"converted into {destination}")


def _write_tokenizer(source: Path, partial: Path, config: OriginalConfig) -> None:
    model = source / "tokenizer.model"
    if model.is_file():
        refuse_lfs_pointer(model)
    ids = write_tokenizer(model, partial, max_length=config.seq_length)
    if ids > config.padded_vocab_size:
        raise CheckpointError(
            f"{model}: has {ids} ids, but config.json only {config.padded_vocab_size}; use files of the same checkpoint"
        )


def _write_weights(
    shards: list[Path], partial: Path, config: OriginalConfig, console: Console
) -> tuple[torch.dtype, dict[Path, str]]:
    """Writes one native shard for each original one, and their index; returns the dtype they share, and the originals'
    checksums, which a second thread computes meanwhile."""
    weight_map: dict[str, str] = {}
    checksums: dict[Path, str] = {}
    dtypes: set[torch.dtype] = set()
    found: set[str] = set()
    size = 0
    with ThreadPoolExecutor(1) as hashing:
        for number, shard in enumerate(_with_progress(shards, console), start=1):
            checksum = hashing.submit(sha256, shard)
            original = read_shard(shard)
            tensors = convert_tensors(original, config, shard)
            if again := found & original.keys():
                raise CheckpointError(
                    f"{shard}: {min(again)} is in another shard as well; download the checkpoint again"
                )
            found |= original.keys()
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
            save_file(tensors, partial / name, metadata={"format": "pt"})
            (partial / name).chmod(0o644)  # the library makes it private to this user
            weight_map |= dict.fromkeys(tensors, name)
            dtypes |= {tensor.dtype for tensor in tensors.values()}
            size += sum(tensor.nbytes for tensor in tensors.values())
            checksums[shard] = checksum.result()
            del original, tensors  # unmaps the file before the next one is mapped
    check_keys(found, original_shapes(config), shards[0].parent)
    if len(dtypes) > 1:
        raise CheckpointError(f"{shards[0].parent}: weights of several dtypes ({dtypes}); store them in one")
    _write_json(
        partial / INDEXES[0], {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    )
    return dtypes.pop(), checksums


def _with_progress(shards: list[Path], console: Console) -> Iterator[Path]:
    """A bar on a terminal, a line for each shard in a log."""
    if console.is_terminal:
        yield from track(shards, description="Converting", console=console)
        return
    for number, shard in enumerate(shards, start=1):
        gigabytes = shard.stat().st_size / 1e9
        console.out(f"converting shard {number} of {len(shards)} ({gigabytes:.2f} GB)")
        yield shard


def _source_files(source: Path, shards: list[Path]) -> list[Path]:
    indexes = [source / name for name in INDEXES if (source / name).is_file()]
    return [source / "config.json", source / "tokenizer.model", *indexes, *shards]


def _refuse_full_disk(folder: Path, shards: list[Path]) -> None:
    needed, free = sum(shard.stat().st_size for shard in shards), shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(f"{folder}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed; make room")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _replace(partial: Path, destination: Path) -> None:
    for path in [*partial.iterdir(), partial]:
        _sync(path)
    old = destination.with_name(f".{destination.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if destination.exists():
        destination.rename(old)
    partial.rename(destination)
    _sync(destination.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    with opened(path) as descriptor:
        os.fsync(descriptor)
