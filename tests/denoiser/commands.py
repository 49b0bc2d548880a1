"""The command line, run to its end."""

import os
import subprocess
import sys


def outcome(*arguments: object, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    command, env = [sys.executable, "-m", "denoiser", *map(str, arguments)], os.environ | {"COLUMNS": "200"}
    done = subprocess.run(command, env=env | environment, capture_output=True, text=True, check=False, timeout=240)
    return done.returncode, done.stdout, done.stderr


def refusal(*arguments: object, **environment: str) -> str:
    """The one line in which a command refuses, before it has told of any work."""
    code, out, err = outcome(*arguments, **environment)
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert err.startswith("denoiser: ")
    return err
