"""Prompts to measure with: short questions, long ones over retrieved text that they share or do not, and a mixture.

Every prompt of a run is another one, so that no server answers from what it kept of an earlier round.
"""

from collections.abc import Callable

_SUBJECTS = (
    "invoices",
    "parcels",
    "trains",
    "gardens",
    "contracts",
    "recipes",
    "patients",
    "museums",
    "bridges",
    "crops",
)
_FACTS = (
    "are kept for ten years",
    "move on Mondays only",
    "need two signatures",
    "cost more in winter",
    "grow by the sea",
)


def short(number: int) -> str:
    """A question of about 20 tokens."""
    return f"What is the number {number} good for, and who has to know it?"


def shared(number: int) -> str:
    """A question of a few tokens after the same 1,500 tokens of text."""
    return _question("a", number)


def separate(number: int) -> str:
    """The same, after 1,500 tokens of text that no other prompt has."""
    return _question(f"number {number}", number)


def mixed(number: int) -> str:
    """Three short questions to each long one, half of the long ones with the shared text."""
    if number % 4:
        return short(number)
    return shared(number) if number % 8 else separate(number)


SETS: dict[str, Callable[[int], str]] = {"short": short, "shared": shared, "separate": separate, "mixed": mixed}


def _question(name: str, number: int) -> str:
    lines = [
        f"- In the {name} archive, {subject} of group {group} {fact}."
        for group in range(2)
        for subject in _SUBJECTS
        for fact in _FACTS
    ]
    return (
        f"Answer from this text alone:\n{chr(10).join(lines)}\nQuestion {number}: what about {_SUBJECTS[number % 10]}?"
    )
