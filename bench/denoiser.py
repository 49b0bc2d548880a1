"""How fast the denoiser is, as ratios in one run: embeddings over HTTP against sentence-transformers called directly
(and any other OpenAI-compatible server), and whole files against a script that only multiplies matrices of their size.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated

import httpx
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from bench.contenders import ContenderFailed, wait_healthy
from bench.ports import free_port
from bench.servers import address, key_header
from bench.turns import rotated

MODEL = "all-MiniLM-L6-v2"
WIDTH = 384
_WORDS = ("order", "late", "parcel", "refund", "the", "a", "and", "train", "station", "garden", "music", "weather")
_PRODUCT = """
import sys, numpy as np, torch
source, target, width = sys.argv[1], sys.argv[2], int(sys.argv[3])
vectors, matrix = np.load(source, mmap_mode="r"), torch.randn(384, width)
out = np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=vectors.shape)
for start in range(0, len(vectors), 2048):
    out[start : start + 2048] = (torch.from_numpy(vectors[start : start + 2048].copy()) @ matrix)[:, :384].numpy()
"""
_console = Console()


def _texts(count: int) -> list[str]:
    """Texts of 5 to 60 words, the same in every run."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(_WORDS, rng.integers(5, 60))) for _ in range(count)]


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each way by round; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in rotated(list(ways), turn):
            times[name].append(_timed(ways[name]))
    return times


def _show(title: str, seconds: dict[str, list[float]], count: int) -> None:
    """Medians over the rounds; the ratio is that of the speeds within a round."""
    bases = next(iter(seconds.values()))
    table = Table("", "seconds", "per second", "speed, ratio to the first", title=title)
    for name, found in seconds.items():
        middle = median(found)
        ratio = median(base / own for base, own in zip(bases, found, strict=True))
        table.add_row(name, f"{middle:.2f}", f"{count / middle:.0f}", f"{ratio:.2f}")
    _console.print(table)


@contextmanager
def _service() -> Iterator[str]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "denoiser", "serve", "--port", str(port)]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_healthy(process, url, Path(folder) / "log", ["/ping"])
            yield url
        except ContenderFailed as error:
            print(f"bench: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        finally:
            process.terminate()
            process.wait()


async def _ask(url: str, texts: list[str], batch: int, clients: int) -> None:
    """Raises ContenderFailed."""
    places = asyncio.Semaphore(clients)
    async with httpx.AsyncClient(base_url=url, headers=key_header(), timeout=600, trust_env=False) as client:

        async def one(chunk: list[str]) -> None:
            async with places:
                body = {"model": MODEL, "input": chunk, "encoding_format": "base64"}
                (await client.post("/v1/embeddings", json=body)).raise_for_status()

        chunks = (texts[i : i + batch] for i in range(0, len(texts), batch))
        try:
            await asyncio.gather(*(one(chunk) for chunk in chunks))
        except httpx.HTTPError as error:
            raise ContenderFailed(f"{url}: {str(error) or type(error).__name__}".splitlines()[0]) from error


def embeddings(
    count: Annotated[int, typer.Option(min=1, help="How many texts.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Texts in a request.")] = 50,
    clients: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")] = 3,
    peer: Annotated[
        list[str] | None, typer.Option(parser=address, help="Address of another server to compare with.")
    ] = None,
) -> None:
    """Embed texts with sentence-transformers in one call, and over HTTP, in turns."""
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415

    from denoiser.model.encoder import find_model  # noqa: PLC0415

    texts, direct = _texts(count), SentenceTransformer(str(find_model()), device="cpu", local_files_only=True)
    with _service() as url:
        ways: dict[str, Callable[[], object]] = {
            "sentence-transformers": lambda: direct.encode(texts, show_progress_bar=False),
            "denoiser over HTTP": lambda: asyncio.run(_ask(url, texts, batch, clients)),
        }
        for address in peer or []:
            ways[address] = lambda address=address: asyncio.run(_ask(address, texts, batch, clients))  # type: ignore[misc]
        for way in ways.values():
            way()
        _show(f"{count} texts of 5 to 60 words", _turns(ways, rounds), count)


def _multiplications() -> int:
    """How many multiplications the bundled network needs for a vector."""
    from torch import nn  # noqa: PLC0415

    from denoiser.model.checkpoint import BUNDLED_CHECKPOINT, load  # noqa: PLC0415

    network, _ = load(BUNDLED_CHECKPOINT)
    layers = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear))
    return layers + 2 * WIDTH * WIDTH


def files(
    count: Annotated[int, typer.Option(min=1, help="How many vectors.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")] = 3,
) -> None:
    """Denoise a file of vectors with the command, and multiply it by one matrix of as many numbers, in turns."""
    width = round(_multiplications() / WIDTH)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npy", Path(folder) / "out.npy"
        rng = np.random.default_rng(0)
        clean = rng.standard_normal((count, WIDTH), dtype=np.float32)
        clean /= np.linalg.norm(clean, axis=1, keepdims=True)
        np.save(source, clean + 0.1 * rng.standard_normal(clean.shape, dtype=np.float32))
        names = [str(source), str(target)]
        ways: dict[str, Callable[[], object]] = {
            f"matrix product, {WIDTH} by {width}": lambda: _run("-c", _PRODUCT, *names, str(width)),
            "python -m denoiser denoise": lambda: _run("-m", "denoiser", "denoise", *names),
        }
        _show(f"{count} vectors, each with its program's start", _turns(ways, rounds), count)


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
