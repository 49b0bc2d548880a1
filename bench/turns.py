"""The order in which contenders take turns."""


def rotated(names: list[str], turn: int) -> list[str]:
    """Another one first in each round, so that none always follows the same one."""
    first = turn % len(names)
    return names[first:] + names[:first]
