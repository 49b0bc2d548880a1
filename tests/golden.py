"""The golden checkpoint: original ChatGLM2 files, tiny, with what the original code answers on them."""

import os
from pathlib import Path

import pytest

SIBLING = Path(__file__).resolve().parents[2] / "shared" / "golden" / "chatglm2-tiny"
CASES = 6


def golden_folder() -> Path:
    """The folder that CHATGLM2_GOLDEN names, or the one next to the repository; skips where there is none."""
    folder = Path(os.environ.get("CHATGLM2_GOLDEN", SIBLING))
    if not (folder / "expected.json").is_file():
        pytest.skip(f"no golden checkpoint at {folder}; set CHATGLM2_GOLDEN")
    return folder
