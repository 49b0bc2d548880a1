"""A multipart upload, read within limits; nothing of a refused file stays on disk."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import PurePosixPath

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from denoiser.api.gate import arriving_within, limited
from denoiser.errors import InvalidInputError, MediaTypeError, TooLargeError

_ENVELOPE = 4096  # boundary and headers around the file
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Patience:
    """Seconds that a body may take, and from one piece of it to the next: others wait for their turn meanwhile."""

    body: float = 600
    piece: float = 30


async def receive(request: Request, most: int, patience: Patience = Patience()) -> tuple[str, bytes]:
    """Name and content of the multipart field `file`, in a body of at most `most` bytes.

    Raises TooLargeError, MediaTypeError for another kind of body, InvalidInputError for another form, SlowError.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise MediaTypeError("send the file as multipart/form-data in a field named file, as curl -F file=@NAME does")
    pieces = _steady(limited(request, most + _ENVELOPE), patience.piece)
    parser = MultiPartParser(request.headers, pieces, max_files=1, max_fields=0)
    try:
        async with arriving_within(patience.body):
            form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise InvalidInputError("the form cannot be read; it must hold one file in a field named file") from error
    try:
        return await _file(form, most)
    finally:
        await form.close()


async def _steady(pieces: AsyncGenerator[bytes, None], seconds: float) -> AsyncGenerator[bytes, None]:
    while True:
        async with arriving_within(seconds, "more of the body"):
            piece = await anext(pieces, None)
        if piece is None:
            return
        yield piece


async def _file(form: FormData, most: int) -> tuple[str, bytes]:
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        names = ", ".join(form) or "nothing"
        raise InvalidInputError(f"the form holds {names:.60}; it must hold one file in a field named file")
    if (upload.size or 0) > most:
        raise TooLargeError(f"the file has {upload.size} bytes; at most {most} are taken")
    name = PurePosixPath((upload.filename or "").replace("\\", "/")).name[:_LONGEST_NAME]
    return "".join(c for c in name if c.isprintable()) or "upload", await upload.read()
