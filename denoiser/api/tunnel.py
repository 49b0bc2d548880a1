"""A public address for a demo, by ngrok's SDK, which is installed only where it is wanted. Never without an API key."""

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import structlog

from denoiser.errors import DenoiserError, SettingsError
from denoiser.settings import Settings

SDK = "ngrok"
_log = structlog.get_logger()


def require_tunnel(settings: Settings, sdk: str = SDK) -> None:
    """Raises SettingsError naming what a tunnel lacks: the API key, ngrok's token, or its SDK."""
    if settings.required_key is None:
        raise SettingsError("--tunnel makes this service public; set API_KEY first")
    if settings.ngrok_authtoken is None or not settings.ngrok_authtoken.get_secret_value():
        raise SettingsError("--tunnel needs your ngrok token; set NGROK_AUTHTOKEN")
    if importlib.util.find_spec(sdk) is None:
        raise SettingsError(f"--tunnel needs ngrok's SDK; install it with: pip install {sdk}")


@contextlib.contextmanager
def open_tunnel(settings: Settings, port: int, sdk: str = SDK) -> Iterator[str]:
    """A public address for a local port while the block runs. Raises DenoiserError when ngrok refuses."""
    ngrok: Any = importlib.import_module(sdk)
    token = settings.ngrok_authtoken.get_secret_value() if settings.ngrok_authtoken else ""
    try:
        listener = ngrok.forward(port, authtoken=token)
    except (ValueError, RuntimeError, OSError) as error:
        raise DenoiserError(f"ngrok refused the tunnel: {str(error).splitlines()[0]:.200}") from error
    _log.info("public address", url=listener.url())
    try:
        yield listener.url()
    finally:
        with contextlib.suppress(ValueError, RuntimeError):
            ngrok.disconnect(listener.url())
