"""model.tar.gz for the stock DJL image: this project's handler and the packages it needs, code only.

The weights stay in their S3 prefix, which the container reads when it starts. The same source gets the same key.
"""

import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from deploy import upload
from deploy.aws import Aws
from deploy.errors import ConfigError
from deploy.names import Names
from deploy.settings import ROOT

SERVING = ROOT / "serving"
# What the handler needs beyond torch, which comes with the image; torch itself must stay the image's own.
REQUIREMENTS = """transformers>=5.16.1,<5.20
safetensors
sentencepiece
pydantic-settings
structlog
prometheus-client
typer
rich
boto3
"""


@dataclass(frozen=True)
class Archive:
    """The archive, and the checksum of what is in it: one version of zlib makes other bytes of that than another."""

    content: bytes
    checksum: str

    def write(self, path: Path) -> Path:
        """Write it to a file. Raises ConfigError where that cannot be done."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.content)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}; choose another place") from None
        return path


def build() -> Archive:
    """The archive, not yet written: model.py, chatglm2/, serving.properties and requirements.txt at its top."""
    sources = sorted(file for file in SERVING.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in sources:
            _add(tar, file.relative_to(SERVING).as_posix(), file.read_bytes())
        _add(tar, "requirements.txt", REQUIREMENTS.encode())
    content = buffer.getvalue()
    return Archive(gzip.compress(content, mtime=0), hashlib.sha256(content).hexdigest())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    tar.addfile(info, io.BytesIO(content))


def uri(names: Names, archive: Archive) -> str:
    """Where the archive is; no archive with anything else in it ever gets there."""
    return f"s3://{names.bucket}/{names.prefix}packages/{archive.checksum[:12]}/model.tar.gz"


def send(aws: Aws, names: Names, archive: Archive) -> None:
    """Bring the archive to its place, unless it is there, by way of a file in the cache."""
    address = uri(names, archive)
    if upload.is_there(aws, address):
        return
    path = names.settings.weights.cache_dir.expanduser() / "package" / "model.tar.gz"
    if not aws.journal.dry_run:
        archive.write(path)
    key, digest = address.removeprefix(f"s3://{names.bucket}/"), hashlib.sha256(archive.content).hexdigest()
    upload.upload(aws, names, [upload.File(path, key, len(archive.content), digest)])
