"""What only the vLLM engine does: no beams, a process of its own that is started again, several GPUs, DJL."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bench.ports import free_port
from chatglm2.settings import Settings
from chatglm2.startup import find_model
from tests import servers
from tests.chatglm2.conftest import require_djl, start, vllm_python

pytestmark = pytest.mark.vllm

SCHEDULER = "EngineCore"
"""In the title of the process in which vLLM schedules."""
ASK = {"inputs": "What is a data warehouse?", "parameters": {"max_new_tokens": 10, "do_sample": False}}


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    with start("vllm", tmp_path_factory.mktemp("vllm") / "log") as server:
        yield server


def test_beams_are_refused_with_the_way_out(vllm: servers.Server) -> None:
    reply = vllm.post("/invocations", {"inputs": "Hi", "parameters": {"num_beams": 2, "do_sample": False}})
    assert reply.status_code == 400
    assert "num_beams: got 2" in reply.json()["error"]
    assert "CHAT_ENGINE=transformers" in reply.json()["error"]


def test_a_killed_engine_is_started_again_and_ping_tells_the_truth(vllm: servers.Server) -> None:
    before, engine = vllm.post("/invocations", ASK).json(), servers.child(vllm.process.pid, SCHEDULER)
    assert engine is not None
    body = {"inputs": "Write a long story.", "parameters": {"max_new_tokens": 2000, "do_sample": False, "stream": True}}
    with httpx.stream("POST", f"{vllm.url}/invocations", json=body, timeout=120) as response:
        lines = response.iter_lines()
        assert next(lines)
        engine.kill()
        assert '"code": 503' in [*lines][-1]
    servers.wait_until(lambda: not vllm.healthy())
    vllm.wait_healthy()
    assert vllm.post("/invocations", ASK).json() == before


def test_output_that_is_not_finite_is_an_error_and_others_go_on(tmp_path: Path) -> None:
    """A model with random weights that knows one word only as not a number."""
    tokenizer = AutoTokenizer.from_pretrained(find_model(Settings()), local_files_only=True)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=False, **shape))
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.encode(" poison")[0]] = float("nan")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    greedy = {"max_new_tokens": 4, "do_sample": False}
    with start("vllm", tmp_path / "log", {"HF_MODEL_ID": str(tmp_path)}) as server:
        before = server.post("/invocations", {"inputs": "Is it water?", "parameters": greedy})
        spoiled = server.post("/invocations", {"inputs": "Is it poison?", "parameters": greedy})
        after = server.post("/invocations", {"inputs": "Is it water?", "parameters": greedy})
    assert spoiled.status_code == 500
    assert "not finite" in spoiled.json()["error"]
    assert before.status_code == after.status_code == 200
    assert before.json() == after.json()


def test_sigterm_ends_all_processes(tmp_path_factory: pytest.TempPathFactory) -> None:
    with start("vllm", tmp_path_factory.mktemp("end") / "log") as server:
        processes = servers.children(server.process.pid)
        server.process.terminate()
        assert server.process.wait(60) == 0
        servers.wait_until_ended(processes)


def test_sigterm_while_vllm_starts_ends_all_processes(tmp_path: Path) -> None:
    port = free_port()
    command = [vllm_python(), "-m", "chatglm2", "serve", "--port", str(port)]
    env = {"CHAT_ENGINE": "vllm", "CHAT_EAGER": "1"}
    with servers.started(command, tmp_path / "log", port, env) as server:
        servers.wait_until(lambda: servers.child(server.process.pid, SCHEDULER))
        processes = servers.children(server.process.pid)
        server.process.terminate()
        assert server.process.wait(60) == 128 + signal.SIGTERM
        servers.wait_until_ended(processes)


def test_behind_djl_serving_it_answers_and_streams(tmp_path_factory: pytest.TempPathFactory) -> None:
    require_djl()
    env, log = {"CHAT_ENGINE": "vllm", "CHAT_EAGER": "1"}, tmp_path_factory.mktemp("djl") / "log"
    with servers.chat("djl", log, env, python=vllm_python()) as server:
        whole = server.post("/invocations", ASK).json()
        body = ASK | {"parameters": {"max_new_tokens": 10, "do_sample": False, "stream": True}}
        with httpx.stream("POST", f"{server.url}/invocations", json=body, timeout=120) as response:
            assert len([*response.iter_lines()]) > 5
        assert "data" in whole["outputs"]


def test_more_gpus_than_there_are_is_one_line() -> None:
    assert "CHAT_TENSOR_PARALLEL" in refusal({"CHAT_TENSOR_PARALLEL": "99"})


def test_an_executor_that_is_not_there_is_one_line() -> None:
    assert "vLLM did not start (No module named 'nowhere')" in refusal({"CHAT_EXECUTOR": "nowhere.Executor"})


def refusal(env: dict[str, str]) -> str:
    """The last words of a service that does not start."""
    command = [vllm_python(), "-m", "chatglm2", "serve", "--port", str(free_port())]
    given = os.environ | {"CHAT_ENGINE": "vllm", "CHAT_EAGER": "1"} | env
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_a_model_that_only_waits_keeps_its_pace() -> None:
    """With it `bench pace` measures what the service costs; here: no more than a token each 20 milliseconds."""
    command = [sys.executable, "-m", "bench", "pace", "--vllm-python", vllm_python(), "--only", "in FastAPI"]
    load = ["--step", "20", "--concurrent", "1,8", "--rounds", "1", "--waves", "1", "--new-tokens", "8"]
    done = subprocess.run([*command, *load], capture_output=True, text=True, check=True)
    speeds = re.findall(r"round 1, (\d+) at once, vLLM engine in FastAPI: ([\d.]+) tokens/s", done.stdout)
    assert [level for level, _ in speeds] == ["1", "8"]
    assert all(0 < float(speed) <= int(level) * 50 for level, speed in speeds)
