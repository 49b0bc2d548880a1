"""The command line as a user types it."""

import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from bench.ports import free_port
from denoiser.model.checkpoint import BUNDLED_CHECKPOINT, read_manifest
from tests.denoiser.commands import outcome, refusal
from tests.denoiser.texts import sentences
from tests.servers import running


def test_help_names_the_commands() -> None:
    code, out, _ = outcome("--help")
    assert code == 0
    assert all(command in out for command in ("train", "evaluate", "serve"))
    assert "Standard deviation of the noise; estimated without it." in outcome("denoise", "--help")[1]


def test_serve_refuses_a_port_that_is_taken_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = outcome("serve", "--port", str(port))
    assert (code, out) == (1, "")
    assert err.startswith(f"denoiser: cannot listen on 127.0.0.1:{port}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"MODEL_PATH": "/nowhere"}, "no checkpoint at /nowhere"),
        ({"MODEL_PATH": "/nowhere/old.pt"}, "no checkpoint at /nowhere/old.pt"),
        ({"PORT": "many"}, "PORT=many cannot be used"),
    ],
)
def test_serve_refuses_unusable_settings_in_one_line(environment: dict[str, str], complaint: str) -> None:
    code, out, err = outcome("serve", **environment)
    assert (code, out) == (1, "")
    assert err.startswith("denoiser: ")
    assert complaint in err
    assert err.count("\n") == 1


def test_train_on_own_text_then_serve_it_until_sigterm(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    words = ("red", "old", "fast", "kind", "loud", "warm", "thin")
    things = ("boat", "horse", "teacher", "kitchen", "song", "winter", "bakery")
    verbs = ("stops near", "reminds me of", "was sold to", "sounds like", "belongs to")
    text.write_text("\n".join(f"The {w} {t} {v} my neighbour." for w in words for t in things for v in verbs))
    model = tmp_path / "model"
    cache = str(tmp_path / "cache")
    code, _, err = outcome("train", "--text", text, "--output", model, "--steps", 3, "--seed", 1, DENOISER_CACHE=cache)
    assert code == 0, err
    manifest, start = read_manifest(model), read_manifest(BUNDLED_CHECKPOINT)
    assert manifest["network"] == {**start["network"], "known": 164}
    assert (manifest["start"], manifest["left_out"]) == (start["sha256"], start["left_out"])
    assert (manifest["recipe"]["steps"], manifest["recipe"]["seed"]) == (3, 1)
    assert (manifest["training_sentences"], manifest["sources"][0]["file"]) == (164, "text.txt")
    assert {figure["domain"] for figure in manifest["figures"]} == {"in-domain"}
    assert "training: 3 of 3 steps, loss" in err
    port = free_port()
    env = {"PORT": str(port), "MODEL_PATH": str(model), "API_KEY": "key"}
    with running([sys.executable, "-m", "denoiser", "serve"], tmp_path / "log", port, env) as server:
        body = {"texts": ["A sentence nobody must find in a log."]}
        reply = server.post("/denoise/text", body, headers={"Authorization": "Bearer key"})
        assert reply.json()["shape"] == [1, 384]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        log = server.log.read_text()
    assert '"route": "/denoise/text"' in log
    assert reply.headers["x-request-id"] in log
    assert "nobody must find" not in log


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--text", "team.txt", "--per-source", "100"), "--per-source is for a new model, trained on packages"),
        (("--text", "team.txt", "--device", "cuda"), "--device is for a new model, trained on packages"),
        (("--model", "team"), "--model is what --text goes on from, and without --text a new model is trained"),
        (("--text", "team.txt", "--model", "/nowhere"), "no checkpoint at /nowhere"),
    ],
)
def test_train_refuses_options_that_would_mean_nothing(options: tuple[str, ...], complaint: str) -> None:
    assert complaint in refusal("train", *options)


def test_train_says_what_is_wrong_with_the_text(tmp_path: Path) -> None:
    code, _, err = outcome("train", "--text", str(tmp_path / "missing.txt"))
    assert code == 1
    assert err.count("\n") == 1
    assert "cannot read" in err


def test_train_refuses_an_output_that_it_must_not_or_cannot_write_before_it_reads_text(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for output, complaint in (
        (tmp_path, "is a folder of other files than a checkpoint's; name another folder"),
        (tmp_path / "thesis.txt", "is a file; name another place"),
        (Path(), "is the current folder"),
        (Path("/proc/model"), "cannot write /proc/model"),
    ):
        assert complaint in refusal("train", "--output", output, "--text", tmp_path / "missing.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_train_refuses_text_of_which_too_little_is_unlike_the_rest(tmp_path: Path) -> None:
    text = tmp_path / "invoices.txt"
    alike = "Invoice number {} of the customer was paid on time, and it has been closed by the accountant."
    text.write_text("\n".join(alike.format(number) for number in range(200)))
    code, _, err = outcome("train", "--text", text, "--output", tmp_path / "model", DENOISER_CACHE=str(tmp_path))
    assert code == 1
    assert re.search(r"denoiser: only \d+ of the sentences held out .* at least 20 are needed: take more varied", err)


@pytest.mark.parametrize("own", [True, False])
def test_train_refuses_a_cache_folder_that_cannot_be_made_before_it_encodes(tmp_path: Path, own: bool) -> None:
    (tmp_path / "team.txt").write_text(sentences(300))
    text = ("--text", tmp_path / "team.txt") if own else ()
    code, _, err = outcome("train", *text, "--output", tmp_path / "model", DENOISER_CACHE="/dev/null/cache")
    assert code == 1
    assert err.splitlines()[-1].startswith("denoiser: cannot write /dev/null/cache: Not a directory; make room")
    assert err.count("\n") <= 2
    assert "300 of" not in err


def test_train_refuses_a_seed_that_is_too_large_at_once() -> None:
    code, _, err = outcome("train", "--seed", "99999999999999999999999")
    assert code == 2
    assert "less than or equal to 9223372036854775807" in err


def test_train_refuses_a_gpu_where_there_is_none() -> None:
    assert "device: cuda, but PyTorch sees no GPU here; take cpu" in refusal(
        "train", "--device", "cuda", CUDA_VISIBLE_DEVICES=""
    )


def test_train_without_apt_get_says_so(tmp_path: Path) -> None:
    code, _, err = outcome("train", PATH=str(tmp_path), DENOISER_CACHE=str(tmp_path / "cache"))
    assert code == 1
    fetching, problem = err.splitlines()
    assert fetching.startswith("fetching ")
    assert problem.startswith("denoiser: apt-get is not on this machine; train on your own text instead")
