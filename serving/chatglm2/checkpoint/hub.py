"""Fetches a checkpoint from a model hub, by a pinned revision, into the cache folder. Only data is fetched, never code.

`huggingface_hub` talks to the hub that `HF_ENDPOINT` names, so a mirror works. Its own cache starts an interrupted file
anew, which for shards of gigabytes is too much; here a file goes on where it stopped, and is checked when it is whole.
"""

import os
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console

from chatglm2.errors import SetupError, one_line
from chatglm2.files import alone_in, sha256

REVISIONS = dict.fromkeys(("thudm/chatglm2-6b", "zai-org/chatglm2-6b"), "b259b27320263629b0afccef134c54028233673d")
"""What is fetched of these models, by small letters, where no other revision is asked for."""

SMALL = ("*.json", "*.model", "*.txt", "*.jinja")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""The first kind that a repository has."""

COMPLETE = ".complete"
"""Marks a folder that has all its files."""


def fetch(model: str, revision: str | None, cache: Path) -> Path:
    """Folder under `cache` with the files of hub id `model`. Raises SetupError.

    A commit that is here already is not asked for again, so later starts need no network.
    """
    revision = revision or REVISIONS.get(model.lower())
    folder = cache / model.replace("/", "--")
    if revision and (folder / revision / COMPLETE).is_file():
        return folder / revision
    from httpx2 import HTTPError  # noqa: PLC0415 - the client inside huggingface_hub

    print(f"fetching {model} at revision {revision or 'main (pin one with HF_REVISION)'}", file=sys.stderr, flush=True)
    try:
        return _fetch(model, revision, folder)
    except (OSError, ValueError, HTTPError) as error:
        raise SetupError(
            f"model {model!r} is no folder here and could not be fetched: {one_line(error)}; check the name and "
            "HF_REVISION, and name a mirror in HF_ENDPOINT where the hub cannot be reached"
        ) from error


def _fetch(model: str, revision: str | None, folder: Path) -> Path:
    if not os.environ.get("HF_ENDPOINT"):  # an empty one is an address to huggingface_hub, which reads it once
        os.environ.pop("HF_ENDPOINT", None)
    from huggingface_hub import HfApi  # noqa: PLC0415 - only where a hub is used
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415

    if not sys.stderr.isatty():
        disable_progress_bars()
    found = HfApi().model_info(model, revision=revision)
    commit = folder / str(found.sha)
    commit.mkdir(parents=True, exist_ok=True)
    with alone_in(commit, Console(stderr=True)):
        for name in _wanted([file.rfilename for file in found.siblings or []]):
            if not (commit / name).is_file():
                _fetch_file(model, commit, name)
        (commit / COMPLETE).touch()
    return commit


def _wanted(names: list[str]) -> list[str]:
    """Those that a checkpoint needs; files in folders are never among them."""
    plain = [name for name in names if "/" not in name]
    weights = next((found for kind in WEIGHTS if (found := [name for name in plain if fnmatch(name, kind)])), [])
    return [name for name in plain if any(fnmatch(name, kind) for kind in SMALL)] + weights


def _fetch_file(model: str, commit: Path, name: str) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url  # noqa: PLC0415
    from huggingface_hub.file_download import http_get  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # noqa: PLC0415

    url = hf_hub_url(model, name, revision=commit.name)
    described = get_hf_file_metadata(url)
    partial = commit / f"{name}.partial"
    with partial.open("ab") as file:
        if not sys.stderr.isatty():
            rest = (described.size or 0) - file.tell()
            print(f"fetching {name} ({rest / 1e9:.2f} GB to go)", file=sys.stderr, flush=True)
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers=build_hf_headers(),
            expected_size=described.size,
            displayed_filename=name,
        )
    if re.fullmatch("[0-9a-f]{64}", described.etag or "") and (given := sha256(partial)) != described.etag:
        partial.unlink()
        raise OSError(f"{name} arrived with checksum {given}, expected {described.etag}; it was not kept, try again")
    partial.rename(commit / name)
