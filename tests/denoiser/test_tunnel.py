"""The public tunnel: refused without a key, a token or the SDK; opened and closed around the service.

ngrok itself cannot be reached from a test: a small module of the same three calls stands for its SDK.
"""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from pydantic import SecretStr

from denoiser.api.tunnel import open_tunnel, require_tunnel
from denoiser.errors import DenoiserError, SettingsError
from denoiser.settings import Settings

KEY, TOKEN = SecretStr("key"), SecretStr("token")


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that stands for ngrok's SDK and keeps what it was asked."""
    (tmp_path / "standin_ngrok.py").write_text(
        "class Listener:\n    def url(self): return 'https://demo.example'\n"
        "asked = []\n"
        "def forward(port, authtoken):\n"
        "    if authtoken == 'bad': raise ValueError('authentication failed\\nmore')\n"
        "    asked.append(port)\n    return Listener()\n"
        "def disconnect(url): asked.append(url)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("standin_ngrok", None)
    return "standin_ngrok"


@pytest.mark.parametrize(
    ("settings", "module", "complaint"),
    [
        (Settings(ngrok_authtoken=TOKEN), "json", "set API_KEY"),
        (Settings(api_key=KEY), "json", "NGROK_AUTHTOKEN"),
        (Settings(api_key=KEY, ngrok_authtoken=TOKEN), "not_installed_sdk", "pip install"),
    ],
)
def test_what_a_tunnel_lacks_is_named(settings: Settings, module: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        require_tunnel(settings, module)


def test_a_tunnel_is_open_while_the_service_runs(sdk: str) -> None:
    settings = Settings(api_key=KEY, ngrok_authtoken=TOKEN)
    require_tunnel(settings, sdk)
    with open_tunnel(settings, 8000, sdk) as address:
        assert address == "https://demo.example"
    module: ModuleType | SimpleNamespace = sys.modules[sdk]
    assert module.asked == [8000, "https://demo.example"]


def test_a_refusal_is_one_line(sdk: str) -> None:
    settings = Settings(api_key=KEY, ngrok_authtoken=SecretStr("bad"))
    with pytest.raises(DenoiserError, match=r"authentication failed$"), open_tunnel(settings, 8000, sdk):
        pass
