"""Ports for servers that a measurement or a test starts."""

import contextlib
import random
import socket


def free_port() -> int:
    """A port nobody listens on, and that no client is given before it is used: below those of outgoing connections.

    Raises OSError when 50 ports are taken.
    """
    for port in random.sample(range(10_000, 30_000), 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("50 ports of 127.0.0.1 are taken")
