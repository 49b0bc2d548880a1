"""Asks before anything is deleted."""

import sys

from deploy.errors import ConfigError, DeployError
from deploy.progress import say


def confirm(lines: list[str], yes: bool) -> None:
    """Show what would be deleted and ask. Raises DeployError on a no, ConfigError where nobody can be asked."""
    if not lines:
        say("there is nothing to delete")
        return
    say("to delete:")
    for line in lines:
        say(f"  {line}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("nobody is here to ask: add --yes to delete it; nothing was deleted")
    say("delete all of it? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise DeployError("nothing was deleted")
