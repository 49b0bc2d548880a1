"""The measurements' way to a server, and those that cannot be made: each says why, without a traceback."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bench.__main__ import cli


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_kills_are_refused_where_nothing_starts_the_process_again(tmp_path: Path) -> None:
    done = bench("soak", "--adapter", "serve", "--log", f"{tmp_path}/log")
    assert done.exit_code == 1
    assert done.stderr.startswith("bench: the model is in a process that nothing starts again")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "chat localhost:8080",
        "chat http://localhost:8080/v1",
        "chat --concurrent 4,0",
        "checkpoint made-up --shards 0",
        "compare --model /nonexistent",
        "convert --folder /nonexistent",
        "embeddings --rounds 0",
        "embeddings --peer localhost:8001",
        "files --rounds 0",
        "soak --adapter foo",
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments: str) -> None:
    done = bench(*arguments.split())
    assert done.exit_code == 2, done.output
    assert "Error" in done.stderr


def test_a_key_in_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "a-key")
    done = bench("embeddings", "--count", "2", "--rounds", "1")
    assert done.exit_code == 0, done.output
