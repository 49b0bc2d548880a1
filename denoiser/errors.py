"""Everything the denoiser refuses, each with its HTTP status.

Every message is one line that says what happened, which value, and what to do next.
"""

from http import HTTPStatus


class DenoiserError(Exception):
    """Base of all refusals; the message may be shown to the user."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR


class InvalidInputError(DenoiserError):
    """The request can be read but not used: names the field, what was given and what is allowed."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class TooLargeError(DenoiserError):
    """More bytes, rows or texts than this service takes in one request."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class MediaTypeError(DenoiserError):
    """A body of another kind than the route takes."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class SlowError(DenoiserError):
    """A body that stopped arriving."""

    status = HTTPStatus.REQUEST_TIMEOUT


class BusyError(DenoiserError):
    """As many requests are waiting as the queue holds."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class NotReadyError(DenoiserError):
    """No model is loaded."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class CheckpointError(DenoiserError):
    """A checkpoint that is missing, damaged or of another kind."""


class CorpusError(DenoiserError):
    """Training text that cannot be fetched, read or used."""


class SettingsError(DenoiserError):
    """A setting in the environment that cannot be used."""


class ConflictError(DenoiserError):
    """What is asked does not fit the present state, such as a second training job."""

    status = HTTPStatus.CONFLICT


class UnknownError(DenoiserError):
    """No job or model of that name."""

    status = HTTPStatus.NOT_FOUND


class StoreError(DenoiserError):
    """What the data folder keeps cannot be read or written, such as on a full disk."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class OffError(DenoiserError):
    """A part of the service that is switched off here; the message says why and how to switch it on."""

    status = HTTPStatus.FORBIDDEN


class FileError(DenoiserError):
    """A file of vectors that cannot be read, used or written."""
