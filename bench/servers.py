"""How a server that is measured is reached: the address that a user gives."""

import re

import typer


def address(given: str) -> str:
    """The scheme, host and port of a server. Raises typer.BadParameter."""
    if not re.fullmatch(r"https?://[^/]+/?", given):
        raise typer.BadParameter(f"got {given!r}; give it as http://HOST:PORT")
    return given
