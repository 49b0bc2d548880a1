"""Measurements that cannot be made: each says why in one line, without a traceback."""

from pathlib import Path

from typer.testing import CliRunner, Result

from bench.__main__ import cli


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_kills_are_refused_where_nothing_starts_the_process_again(tmp_path: Path) -> None:
    done = bench("soak", "--adapter", "serve", "--log", f"{tmp_path}/log")
    assert done.exit_code == 1
    assert done.stderr.startswith("bench: the model is in a process that nothing starts again")
    assert done.stderr.count("\n") == 1
