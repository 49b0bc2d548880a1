"""What commands say while they work, on a terminal and in a log."""

import pytest

from denoiser.progress import say, tracking

NAMES = ("v[final].npy", "a[/b].npy", "[red]x.npy", ":smile:.npy")


@pytest.mark.parametrize("name", NAMES)
def test_file_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str], name: str) -> None:
    say(f"wrote {name}: 4 vectors")
    assert capsys.readouterr().err == f"wrote {name}: 4 vectors\n"


@pytest.mark.parametrize("terminal", ["", "1"])
@pytest.mark.parametrize("name", NAMES)
def test_they_are_in_progress_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, terminal: str
) -> None:
    monkeypatch.setenv("FORCE_COLOR", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    with tracking(f"encoding {name}", 4) as advance:
        advance(4, "sentences")
    assert f"encoding {name}" in capsys.readouterr().err
