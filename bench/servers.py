"""How a server that is measured is reached: the address that a user gives, and the key in the environment."""

import os
import re

import typer


def address(given: str) -> str:
    """The scheme, host and port of a server. Raises typer.BadParameter."""
    if not re.fullmatch(r"https?://[^/]+/?", given):
        raise typer.BadParameter(f"got {given!r}; give it as http://HOST:PORT")
    return given


def key_header() -> dict[str, str]:
    """The header that `API_KEY` makes necessary, if it is set: what a measurement starts has the same key."""
    key = os.environ.get("API_KEY", "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}
