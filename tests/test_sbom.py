"""The list of what is in an image: how it names the image itself. The rest is in tests/container."""

import pytest

from launch.sbom import container


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
