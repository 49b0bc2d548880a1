"""What holds for all tests: how long a generated example takes says something about the machine, not about the code;
tests that share a server run in one worker, so that it starts once.

PyTorch's threads sleep while they wait for each other, as in the services; it reads that when it is first imported.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SHARED = ("chat", "server")
"""Fixtures of whole folders."""

ADAPTERS = ("serve", "djl", "vllm")
"""Parameters that give a server of its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests by the server that they ask, else by file."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    fixtures = getattr(item, "fixturenames", ())
    place = next((name for name in SHARED if name in fixtures), item.path.stem)
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    adapters = [value for value in parameters if isinstance(value, str) and value in ADAPTERS]
    return "-".join([item.path.parent.name, place, *adapters])
