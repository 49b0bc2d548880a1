"""The error of the checkpoint package: one line that names the file, what was found in it and what to do."""


class CheckpointError(Exception):
    """Files that cannot be converted, or not converted exactly."""
