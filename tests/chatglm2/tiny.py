"""A tiny model with random weights, whose tokens take a millisecond: in a folder, or served in the test's process."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from chatglm2.app import create_app
from chatglm2.detokenizer import TokenTexts
from chatglm2.engines.transformers import TransformersEngine
from chatglm2.metrics import Metrics
from chatglm2.prompt import Prompter
from chatglm2.service import ChatService
from chatglm2.settings import Settings
from chatglm2.startup import find_model

HANG_SECONDS = 120


def tiny_model(vocabulary: int) -> LlamaForCausalLM:
    """The model."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=4096, **shape)).eval()


def save_tiny_model(folder: Path) -> None:
    """The model with the embedded one's tokenizer, as `chatglm2 serve` takes it."""
    tokenizer = AutoTokenizer.from_pretrained(find_model(Settings()), local_files_only=True)
    tokenizer.save_pretrained(folder)
    tiny_model(len(tokenizer)).save_pretrained(folder)


class TinyService:
    """Asked through its ASGI application. `settings` are those of the service."""

    def __init__(self, **settings: Any) -> None:
        chosen = Settings(**settings)
        tokenizer = AutoTokenizer.from_pretrained(find_model(chosen), local_files_only=True)
        self._runner = asyncio.Runner()
        engine = self._runner.run(self._engine(len(tokenizer)))
        self._service = ChatService(engine, Prompter(tokenizer), TokenTexts(tokenizer), chosen, Metrics())
        transport = httpx.ASGITransport(create_app(self._service, chosen))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://chat")

    async def _engine(self, vocabulary: int) -> TransformersEngine:
        return TransformersEngine(tiny_model(vocabulary), cache_tokens=4096, batch_tokens=256, max_running=8)

    def post(self, body: bytes) -> httpx.Response:
        """The reply to a body. Raises TimeoutError when none comes."""
        ask = self._client.post("/invocations", content=body)
        return self._runner.run(asyncio.wait_for(ask, HANG_SECONDS))

    def close(self) -> None:
        """Stop the engine."""
        self._runner.run(self._service.close())
        self._runner.close()
