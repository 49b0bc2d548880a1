"""Memory and time of converting a checkpoint with the layer shapes of ChatGLM2-6B, against copying its files."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from bench.checkpoint import write_checkpoint


@dataclass(frozen=True)
class Run:
    """One way of getting the files to another folder."""

    seconds: float
    anonymous: int = 0
    """Most memory that was no mapped file, in bytes."""


def conversion(
    layers: Annotated[int, typer.Option(min=1, help="Layers of the made-up checkpoint; ChatGLM2-6B has 28.")] = 8,
    shards: Annotated[int, typer.Option(min=1, help="Files that its weights are in.")] = 3,
    folder: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Where to put it; needs room for three copies.")
    ] = None,
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
