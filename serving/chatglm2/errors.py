"""Every failure a client can see: one class per HTTP status of the contract, each message one line.

Messages say which field, what was given and what is allowed; never a prompt, a path or a stack trace.
"""


class ChatError(Exception):
    """Base of all; by itself a bug (500)."""

    status = 500

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.retry_after = retry_after

    def body(self) -> dict[str, object]:
        """The reply body of the contract: `{"error": one line, "code": HTTP status}`."""
        return {"error": str(self), "code": self.status}


class NotFinite(ChatError):  # noqa: N818
    """The model gave NaN or infinity; the service goes on."""

    def __init__(self) -> None:
        super().__init__("the model's output was not finite; the answer was dropped, send the request again")


class BadRequest(ChatError):  # noqa: N818 - named after the HTTP status
    """The request cannot be used as it is."""

    status = 400


class Unauthorized(ChatError):  # noqa: N818
    """No bearer token, or a wrong one."""

    status = 401


class NotFound(ChatError):  # noqa: N818
    """No such route."""

    status = 404


class TooLarge(ChatError):  # noqa: N818
    """The body is over the limit of that many bytes."""

    status = 413

    def __init__(self, most: int) -> None:
        super().__init__(f"the body is over {most} bytes; send less history or a shorter question")


class Busy(ChatError):  # noqa: N818
    """The queue is full."""

    status = 429


class Unavailable(ChatError):  # noqa: N818
    """Not loaded yet, or shutting down."""

    status = 503


class DeadlinePassed(ChatError):  # noqa: N818
    """The request took longer than a request may."""

    status = 504


class OutOfMemory(ChatError):  # noqa: N818
    """The device ran out of memory; the service goes on."""

    status = 507


class SetupError(Exception):
    """The service cannot start: bad settings, no model, port taken. Shown as one line, exit status 1."""


class CheckpointError(SetupError):
    """Files that cannot be converted, or not converted exactly: the file, what was found in it and what to do."""


def one_line(error: Exception) -> str:
    """What a library said, short enough for a message."""
    return " ".join(str(error).split())[:300]
