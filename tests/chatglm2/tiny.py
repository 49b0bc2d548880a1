"""The chat service in the test's own process, on a tiny model with random weights: a request takes milliseconds."""

import asyncio
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


class TinyService:
    """Asked through its ASGI application. `settings` are those of the service."""

    def __init__(self, **settings: Any) -> None:
        chosen = Settings(**settings)
        tokenizer = AutoTokenizer.from_pretrained(find_model(chosen), local_files_only=True)
        self._runner = asyncio.Runner()
        engine = self._runner.run(self._engine(len(tokenizer)))
        metrics = Metrics(engine.cache_use)
        self._service = ChatService(engine, Prompter(tokenizer), TokenTexts(tokenizer), chosen, metrics)
        transport = httpx.ASGITransport(create_app(self._service, chosen))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://chat")

    async def _engine(self, vocabulary: int) -> TransformersEngine:
        torch.manual_seed(0)
        shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=4096, **shape)).eval()
        return TransformersEngine(model, cache_tokens=4096, batch_tokens=256, max_running=8)

    def post(self, body: bytes) -> httpx.Response:
        """The reply to a body. Raises TimeoutError when none comes."""
        ask = self._client.post("/invocations", content=body)
        return self._runner.run(asyncio.wait_for(ask, HANG_SECONDS))

    def close(self) -> None:
        """Stop the engine."""
        self._runner.run(self._service.close())
        self._runner.close()
