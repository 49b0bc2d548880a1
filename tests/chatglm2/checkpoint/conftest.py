"""Checkpoints to convert: a tiny one made here, and the golden one where it is present."""

from pathlib import Path

import pytest
import torch

from chatglm2.checkpoint.convert import convert
from tests.chatglm2.checkpoint.tiny import CONFIG, original_tensors, train_sentencepiece, write_original
from tests.golden import golden_folder


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    path.write_bytes(train_sentencepiece())
    return path


@pytest.fixture(scope="session")
def tensors() -> dict[str, torch.Tensor]:
    return original_tensors(CONFIG)


@pytest.fixture(scope="session")
def original(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, torch.Tensor], sentencepiece_model: Path
) -> Path:
    """A whole original checkpoint, not to be changed."""
    return write_original(tmp_path_factory.mktemp("original") / "chatglm2", tensors, sentencepiece_model)


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory, original: Path) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "glm"
    convert(original, folder)
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Files and answers of the original code (env CHATGLM2_GOLDEN, or next to the repository)."""
    return golden_folder()


@pytest.fixture(scope="session")
def golden_converted(tmp_path_factory: pytest.TempPathFactory, golden: Path) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "glm"
    convert(golden, folder)
    return folder
