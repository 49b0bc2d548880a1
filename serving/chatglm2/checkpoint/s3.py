"""Fetches a checkpoint from an S3 prefix (`s3://bucket/prefix`) into the cache folder, with AWS's own settings.

A file that is here already, by size and ETag, is not fetched again; each appears under its name only when it is whole.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from chatglm2.errors import SetupError, one_line
from chatglm2.files import alone_in

RECORD = ".s3.json"
"""ETags of the files in a folder, by name."""

SKIPPED = (".py", ".pyc", ".pt", ".gguf", ".onnx", RECORD)
"""Never needed: code, and formats that nothing here reads."""


def fetch(uri: str, cache: Path, *, console: Console | None = None) -> Path:
    """Folder under `cache` with the files directly under the prefix `uri`. Raises SetupError."""
    import boto3  # noqa: PLC0415 - only where S3 is used
    from boto3.exceptions import Boto3Error  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
    folder = cache / f"s3-{hashlib.sha256(f'{bucket}/{prefix}'.encode()).hexdigest()[:12]}"
    console = console or Console(stderr=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        client = boto3.client("s3")
        with alone_in(folder, console):
            objects = _listed(client, bucket, prefix)
            if "config.json" not in objects:
                raise SetupError(f"{uri} holds no config.json; name the prefix right above the files of a checkpoint")
            _fetch_missing(client, bucket, objects, folder, console)
    except (BotoCoreError, ClientError, Boto3Error, ValueError) as error:  # ValueError: an address that is none
        raise SetupError(
            f"{uri} could not be fetched: {one_line(error)}; check the name, the region and that these credentials may "
            "list and read it"
        ) from error
    except OSError as error:
        raise SetupError(
            f"{uri} cannot be kept in {cache}: {one_line(error)}; choose another CHAT_CACHE_DIR"
        ) from error
    return folder


def _listed(client: Any, bucket: str, prefix: str) -> dict[str, dict[str, Any]]:
    """The objects directly under the prefix, by file name."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    objects = (item for page in pages for item in page.get("Contents", []))
    named = {item["Key"].removeprefix(prefix): item for item in objects}
    twice = (".bin",) if any(name.endswith(".safetensors") for name in named) else ()
    return {name: item for name, item in named.items() if name and not name.endswith((*SKIPPED, *twice))}


def _fetch_missing(
    client: Any, bucket: str, objects: dict[str, dict[str, Any]], folder: Path, console: Console
) -> None:
    record = _recorded(folder)
    for stale in [path for path in folder.iterdir() if path.name not in objects and path.name != RECORD]:
        stale.unlink()
    missing = {name: item for name, item in objects.items() if not _is_here(folder / name, item, record)}
    total = sum(item["Size"] for item in missing.values())
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("Fetching from S3", total=total)
        for name, item in missing.items():
            if not console.is_terminal:
                console.out(f"fetching {name} ({item['Size'] / 1e9:.2f} GB)")
            client.download_file(bucket, item["Key"], str(folder / name), Callback=lambda size: bar.advance(task, size))
            record[name] = item["ETag"]
            _write(folder / RECORD, record)


def _is_here(path: Path, item: dict[str, Any], record: dict[str, str]) -> bool:
    return path.is_file() and path.stat().st_size == item["Size"] and record.get(path.name) == item["ETag"]


def _recorded(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _write(path: Path, record: dict[str, str]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
