"""The record of everything a command changes. In a dry run it is all that happens; otherwise it says what was done."""

import shlex
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy.errors import DeployError

STDERR = 2  # its descriptor


@dataclass
class Journal:
    """Changes in their order, as plain dictionaries."""

    dry_run: bool = False
    entries: list[dict[str, Any]] = field(default_factory=list)

    def note(self, **entry: Any) -> None:
        """Record one change."""
        self.entries.append(entry)

    def run(self, command: list[str], env: Mapping[str, str]) -> None:
        """Run a command; its output goes to standard error. Raises DeployError when it fails."""
        if not self.dry_run:
            _run(command, env)
        self.note(command=command)

    def has_made(self) -> bool:
        """Whether something was made in AWS, other than a pushed image."""
        operations = [entry["operation"] for entry in self.entries if "operation" in entry]
        return not all(name.startswith(("Delete", "Deregister", "Abort")) for name in operations)

    def summary(self) -> str:
        """What was changed, in a few words: `CreateBucket, 3 x PutObject`."""
        names = Counter(str(entry.get("operation") or next(iter(entry))) for entry in self.entries)
        return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in names.items())


def _run(command: list[str], env: Mapping[str, str]) -> None:
    try:
        code = subprocess.run(command, stdout=STDERR, check=False, env=dict(env)).returncode
    except FileNotFoundError:
        raise DeployError(f"{command[0]} is not installed; install Docker with its command line") from None
    if code != 0:
        raise DeployError(f"`{shlex.join(command)}` ended with status {code}; its output is above")
