"""The error of the checkpoint package: one line that names the file, what was found in it and what to do."""

from chatglm2.errors import SetupError


class CheckpointError(SetupError):
    """Files that cannot be converted, or not converted exactly."""
