"""Files to an S3 prefix: in parts, several at once, going on where an earlier run stopped, each part with its checksum.

A file that is there already, whole and with the same content, is not sent again. The content's SHA-256 is in the
object's metadata `sha256`; S3 itself checks every part on arrival.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from botocore.exceptions import ClientError

from deploy.aws import Aws, FilePart
from deploy.errors import ConfigError
from deploy.names import Names
from deploy.progress import counting, say

MOST_PARTS = 10_000  # of one object, says S3


@dataclass(frozen=True)
class File:
    """A file, the key it gets, and what is in it."""

    path: Path
    key: str
    size: int
    sha256: str


def walk(folder: Path) -> list[Path]:
    """The files of a folder, through links, hidden ones left out. Raises ConfigError for what cannot be sent."""
    try:
        with _reading(folder):
            return list(_walk(folder, {folder.resolve()}))
    except UnicodeEncodeError as error:
        raise ConfigError(f"{error.object!r} is no name in UTF-8, as a key has to be; rename it") from None


def _walk(folder: Path, above: set[Path]) -> Iterator[Path]:
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        str(path).encode()  # as it would be on its way
        if path.is_file():
            yield path
        elif not path.is_dir():
            raise ConfigError(f"{path} is neither a file nor a folder, nor a link to one; nothing was sent")
        elif (real := path.resolve()) in above:
            raise ConfigError(f"{path} is a link to a folder it is in; nothing was sent")
        else:
            yield from _walk(path, above | {real})


def checksums(paths: Mapping[str, Path]) -> list[File]:
    """The files by the keys they get, read once for their checksums. Raises ConfigError for one that cannot be read."""
    sizes = {key: _size(path) for key, path in paths.items()}
    with counting("reading", sum(sizes.values())) as advance, ThreadPoolExecutor(4) as pool:
        digests = pool.map(lambda path: _sha256(path, advance), paths.values())
        return [File(path, key, sizes[key], digest) for (key, path), digest in zip(paths.items(), digests, strict=True)]


def content(files: Sequence[File]) -> str:
    """Twelve hexadecimal digits that change with what is in the files."""
    lines = "".join(f"{file.key} {file.sha256}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def prefix(files: Sequence[File], mark: str) -> str:
    """What the key of the file `mark` starts with, and so all the others' keys."""
    return next(file.key for file in files if file.key.endswith(f"/{mark}")).removesuffix(mark)


def upload(aws: Aws, names: Names, files: Sequence[File]) -> None:
    """Make the bucket hold the files. An error leaves what is there for the next run."""
    missing = [file for file in files if not _is_there(aws, names.bucket, file)]
    if not missing:
        say(f"s3://{names.bucket}: all {len(files)} files are there")
        return
    say(f"sending {len(missing)} of {len(files)} files to s3://{names.bucket}")
    workers = 1 if aws.journal.dry_run else names.settings.weights.parallel  # printed requests have an order
    with counting("uploading", sum(file.size for file in missing)) as advance, ThreadPoolExecutor(workers) as pool:
        try:
            for wait in [_Sending(aws, names, pool, advance).start(file) for file in missing]:
                wait()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def upload_marked(aws: Aws, names: Names, files: Sequence[File], mark: str) -> None:
    """As `upload`; the file whose key ends in `mark` goes last, so that where it is, the others are."""
    upload(aws, names, [file for file in files if not file.key.endswith(f"/{mark}")])
    upload(aws, names, [file for file in files if file.key.endswith(f"/{mark}")])


def abort(aws: Aws, upload: Mapping[str, str]) -> None:
    """Give an unfinished upload up, unless another run has done so or completed it."""
    try:
        aws.change("s3", "AbortMultipartUpload", **upload)
    except ClientError as error:
        if not _is_gone(error):
            raise


def is_there(aws: Aws, uri: str) -> bool:
    """Whether there is an object at `s3://bucket/key`."""
    place, _, key = uri.removeprefix("s3://").partition("/")
    return aws.read("s3", "HeadObject", Bucket=place, Key=key) is not None


@dataclass(frozen=True)
class _Sending:
    """Puts files into a pool of threads, a part at a time."""

    aws: Aws
    names: Names
    pool: ThreadPoolExecutor
    advance: Callable[[int], None]

    def start(self, file: File) -> Callable[[], None]:
        """Begin; what it returns waits for the file's parts and completes the object."""
        part_size = self.names.settings.weights.part_mib * 2**20
        if file.size <= part_size:
            return self.pool.submit(self._put, file).result
        sending = _Multipart(self.aws, self.names, file, part_size)
        futures = [self.pool.submit(sending.part, number, self.advance) for number in range(1, sending.count + 1)]
        return lambda: sending.complete(futures)

    def _put(self, file: File) -> None:
        body = FilePart(file.path, 0, file.size)
        digest = base64.b64encode(bytes.fromhex(file.sha256)).decode()
        self.aws.change("s3", "PutObject", **_object(self.names, file), Body=body, ChecksumSHA256=digest)
        self.advance(file.size)


class _Multipart:
    """One file on its way in parts."""

    def __init__(self, aws: Aws, names: Names, file: File, part_size: int) -> None:
        self._aws, self._file = aws, file
        self._part_size = max(part_size, -(-file.size // MOST_PARTS))
        self.count = -(-file.size // self._part_size)
        self._place = {"Bucket": names.bucket, "Key": file.key}
        self._there: dict[int, dict[str, Any]] = {}
        self._id = self._resume() or str(
            aws.change("s3", "CreateMultipartUpload", **_object(names, file), ChecksumAlgorithm="SHA256")["UploadId"]
        )

    def _resume(self) -> str | None:
        """The upload that another run left, or is sending, if it has parts and all are of this very content.

        Without parts it may be of any content, or one that another run has just begun: it is left alone.
        """
        found = None
        for upload in self._unfinished():
            parts = {part["PartNumber"]: part for part in self._aws.pages("s3", "ListParts", "Parts", **upload)}
            if parts and found is None and all(self._is_part(part) for part in parts.values()):
                found, self._there = upload["UploadId"], parts
            elif parts:
                abort(self._aws, upload)
        if found:
            say(f"{self._file.path.name}: going on after {len(self._there)} of {self.count} parts")
        return found

    def _unfinished(self) -> list[dict[str, str]]:
        """Uploads of this key, by whatever run."""
        listing = {"Bucket": self._place["Bucket"], "Prefix": self._file.key}
        found = self._aws.pages("s3", "ListMultipartUploads", "Uploads", **listing)
        return [{**self._place, "UploadId": left["UploadId"]} for left in found if left["Key"] == self._file.key]

    def _is_part(self, part: Mapping[str, Any]) -> bool:
        body = self._body(part["PartNumber"])
        if body.length != part["Size"]:
            return False
        if "ChecksumSHA256" in part:
            return bool(part["ChecksumSHA256"] == _base64(body.read()))
        return bool(part["ETag"].strip('"') == hashlib.md5(body.read(), usedforsecurity=False).hexdigest())

    def _body(self, number: int) -> FilePart:
        offset = (number - 1) * self._part_size
        return FilePart(self._file.path, offset, max(0, min(self._part_size, self._file.size - offset)))

    def part(self, number: int, advance: Callable[[int], None]) -> dict[str, Any]:
        """Send a part, unless it is there; returns what completes the object."""
        body = self._body(number)
        digest = _base64(body.read())
        there = self._there.get(number)
        sent = there or self._aws.change(
            "s3", "UploadPart", **self._place, UploadId=self._id, PartNumber=number, Body=body, ChecksumSHA256=digest
        )
        advance(body.length)
        return {"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": digest}

    def complete(self, parts: list[Future[dict[str, Any]]]) -> None:
        """Wait for all parts and make them one object, unless another run has done so; give up all other uploads."""
        try:
            done = {"Parts": [part.result() for part in parts]}
            self._aws.change("s3", "CompleteMultipartUpload", **self._place, UploadId=self._id, MultipartUpload=done)
        except ClientError as error:
            if not (_is_gone(error) and _is_there(self._aws, self._place["Bucket"], self._file)):
                raise
        for upload in self._unfinished():
            if upload["UploadId"] != self._id:  # which is still listed in a dry run
                abort(self._aws, upload)


def _object(names: Names, file: File) -> dict[str, Any]:
    return {
        "Bucket": names.bucket,
        "Key": file.key,
        "Metadata": {"sha256": file.sha256},
        "Tagging": urlencode(names.tags),
    }


def _is_there(aws: Aws, bucket: str, file: File) -> bool:
    head = aws.read("s3", "HeadObject", Bucket=bucket, Key=file.key)
    return bool(head and head["ContentLength"] == file.size and head["Metadata"].get("sha256") == file.sha256)


def _is_gone(error: ClientError) -> bool:
    return bool(error.response["Error"]["Code"] == "NoSuchUpload")


def _base64(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _size(path: Path) -> int:
    with _reading(path):
        return path.stat().st_size


def _sha256(path: Path, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with _reading(path), path.open("rb") as file:
        while block := file.read(8 * 2**20):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Where something of `path` is read before anything is sent: raises ConfigError when that fails."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{error.filename or path}: {error.strerror}; nothing was sent") from None
