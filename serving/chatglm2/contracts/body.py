"""Bodies checked field by field. Nothing is corrected or ignored silently: what cannot be used as it stands is a
`BadRequest` that names the field, what was given and what is allowed, and never repeats a prompt."""

import difflib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from chatglm2.errors import BadRequest

_LONGEST_NAME = 40
"""Characters of a name that a message shows or compares."""


class Contract(BaseModel):
    """A body or part of one: exact types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Body = TypeVar("Body", bound=Contract)


def json_object(body: bytes) -> dict[str, Any]:
    """The fields of a JSON body. Raises BadRequest."""
    try:
        fields = json.loads(
            body.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated
        )
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 (byte {error.start}); send JSON in UTF-8, uncompressed") from None
    except json.JSONDecodeError as error:
        if not body.strip():
            raise BadRequest("the body is empty; send a JSON object") from None
        raise BadRequest(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except (ValueError, RecursionError):
        raise BadRequest("the body is not usable JSON: a number is too long or the nesting too deep") from None
    if not isinstance(fields, dict):
        raise BadRequest(f"the body is {kind(fields)}; send a JSON object")
    return fields


def _refuse_constant(name: str) -> None:
    raise BadRequest(f"the body holds {name}, which is not JSON; send finite numbers")


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        name, times = Counter(name for name, _ in pairs).most_common(1)[0]
        raise BadRequest(f"the body holds {_shown_name(name)} {times} times in one object; send it once")
    return fields


def validated(
    contract: type[Body], fields: dict[str, Any], *, parts: Mapping[str, type[Contract]], private: frozenset[str]
) -> Body:
    """`fields` as a `contract`, whose field names in `parts` hold contracts of their own.

    Raises BadRequest. Values of the fields `private` never appear in a message.
    """
    try:
        return contract.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        inside = parts.get(str(first["loc"][0])) if first["loc"][1:] else None
        raise BadRequest(_explain(first, inside or contract, private)) from None


def _explain(error: ErrorDetails, contract: type[Contract], private: frozenset[str]) -> str:
    """One line for pydantic's first complaint, which is about a field of `contract` or the whole of it."""
    message = "should be an object" if error["type"] == "model_type" else error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], str) and error["type"] in ("too_short", "too_long"):
        message = message.replace(" item", " character")
    if error["type"] == "string_unicode":  # said of names; `Text` checks values
        message = f"the name {_shown_name(error['input'])} holds half of a surrogate pair; send whole characters"
    if not error["loc"]:
        return message
    *parents, last = error["loc"]
    place = _place(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{_unknown(str(last), _place(parents))}; {_nearest(str(last), contract.model_fields)}"
    if error["type"] == "none_required":
        return f"{place}: only null is possible, got {shown(error['input'])}"
    if error["type"] == "missing":
        return f"{place}: missing"
    if error["type"] in ("value_error", "string_unicode"):  # ours, which say all there is to say
        return f"{place}: {message}"
    given = kind(error["input"]) if error["loc"][0] in private else shown(error["input"])
    return f"{place}: {message[0].lower()}{message[1:]}, got {given}"


def _place(location: Any) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _unknown(name: str, place: str) -> str:
    return f"{place}: unknown parameter {_shown_name(name)}" if place else f"unknown field {_shown_name(name)}"


def _shown_name(name: str) -> str:
    return json.dumps(name[:_LONGEST_NAME])


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name[:_LONGEST_NAME], known, n=1, cutoff=0.0)
    return f"did you mean {close[0]}? Known are {', '.join(known)}"


def shown(value: Any) -> str:
    """A value as JSON, cut short; long and nested ones by their kind alone."""
    if isinstance(value, list | dict):
        return kind(value)
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def kind(value: Any) -> str:
    """What sort of JSON value this is."""
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names[type(value)]


def default(value: Any) -> BeforeValidator:
    """`null` means the same as leaving the field out."""
    return BeforeValidator(lambda given: value if given is None else given)


def _encodable(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"character {error.start} is half of a surrogate pair; send whole characters") from None
    return text


def _as_list(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(_encodable)]
StopString = Annotated[Text, Field(min_length=1, max_length=256)]
StopStrings = Annotated[list[StopString], Field(max_length=16), BeforeValidator(_as_list)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
