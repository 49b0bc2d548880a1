"""The list of what is in an image: how it names the image itself, and its file. The rest is in tests/container."""

from pathlib import Path

import pytest
import typer

from launch.sbom import container, write


@pytest.mark.parametrize(
    ("image", "name", "version"),
    [
        ("djl-container:latest", "djl-container", "latest"),
        ("localhost:5000/djl-container:v1", "localhost:5000/djl-container", "v1"),
        ("localhost:5000/djl-container", "localhost:5000/djl-container", None),
    ],
)
def test_the_image_is_listed_by_name_and_tag(image: str, name: str, version: str | None) -> None:
    assert (container(image).name, container(image).version) == (name, version)


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "build").touch()
    with pytest.raises(typer.Exit):
        write(tmp_path / "build/sbom.json", "{}")
    assert (
        capsys.readouterr().err
        == f"sbom: {tmp_path}/build/sbom.json cannot be written (File exists); name another SBOM\n"
    )
