"""model.tar.gz for the stock DJL image: this project's handler and the packages it needs, code only.

The weights stay in their S3 prefix, which the container reads when it starts. The same source gives the same bytes.
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
    """The archive, and the file that it is to be in."""

    path: Path
    content: bytes

    @property
    def sha256(self) -> str:
        """Checksum of the content."""
        return hashlib.sha256(self.content).hexdigest()

    def write(self) -> Path:
        """Write the file. Raises ConfigError where that cannot be done."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(self.content)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}; choose another place") from None
        return self.path


def build(path: Path) -> Archive:
    """The archive, not yet written: model.py, chatglm2/, serving.properties and requirements.txt at its top."""
    sources = sorted(file for file in SERVING.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for file in sources:
            _add(tar, file.relative_to(SERVING).as_posix(), file.read_bytes())
        _add(tar, "requirements.txt", REQUIREMENTS.encode())
    return Archive(path, buffer.getvalue())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    tar.addfile(info, io.BytesIO(content))


def uri(names: Names, weights: str) -> str:
    """Where the archive for the weights at that address is; no other archive ever gets there."""
    definition = {"weights": weights, "package": build(Path()).sha256}
    return f"s3://{names.bucket}/{names.prefix}packages/{names.versioned('chat', definition)}/model.tar.gz"


def send(aws: Aws, names: Names, archive: Archive, weights: str) -> str:
    """Bring the archive to where the model definition looks for it; returns that address."""
    address = uri(names, weights)
    if not aws.journal.dry_run:
        archive.write()
    key = address.removeprefix(f"s3://{names.bucket}/")
    upload.upload(aws, names, [upload.File(archive.path, key, len(archive.content), archive.sha256)])
    return address
