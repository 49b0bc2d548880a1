"""AWS's event-stream encoding of a streamed invocation, cut where no event may be expected to end."""

import binascii
import struct
from collections.abc import Iterable, Iterator

CONTENT_TYPE = "application/vnd.amazon.eventstream"


def events(blocks: Iterable[bytes], most: int) -> Iterator[bytes]:
    """The blocks as events of at most `most` bytes, of sizes that change from one to the next."""
    size = 1
    for block in blocks:
        for start in range(0, len(block), most):
            for piece in (block[start : start + size], block[start + size : start + most]):
                if piece:
                    yield _event(piece)
            size = size % (most - 1) + 1


def _event(payload: bytes) -> bytes:
    """A PayloadPart in AWS's event-stream encoding: two lengths, headers, payload, each part with a CRC."""
    fields = {
        ":event-type": "PayloadPart",
        ":content-type": "application/octet-stream",
        ":message-type": "event",
    }
    headers = b"".join(
        struct.pack("!B", len(key)) + key.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for key, value in fields.items()
    )
    lengths = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    start = lengths + struct.pack("!I", binascii.crc32(lengths)) + headers + payload
    return start + struct.pack("!I", binascii.crc32(start))
