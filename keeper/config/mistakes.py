"""Says what is wrong with a setting: its name, what is expected, and what was found.

A value is told only where a number, a switch or one of some words is expected, and only a short one: whatever
else stands in a configuration may hold a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

NUMBERS: Mapping[str, str] = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "literal_error": "{expected}",
}
"""By pydantic's name for the mistake: what may be told with what was found."""
OTHERS: Mapping[str, str] = {
    "string_type": "text",
    "string_too_short": "text of at least {min_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "path_type": "a path",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "at least {min_length} of them, found {actual_length}",
    "too_long": "at most {max_length} of them, found {actual_length}",
    "dict_type": "a section",
    "model_type": "a section",
    "model_attributes_type": "a section",
}
"""What may not."""
MOST_TOLD = 24
"""A value that is longer may be a key, whatever it stands at."""


def mistakes(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return each mistake in what was to be read as a model: where it is, and what is wrong there."""
    return [f"{_place(each['loc'])}{_words(each, model)}" for each in error.errors()]


def _place(parts: Sequence[object]) -> str:
    """Name a place as it is in the file, where the section of a deployment does not carry its protocol."""
    if parts[:1] in {("deployment",), ("feed",)}:
        parts = (parts[0], *parts[2:])
    return f"{'.'.join(map(str, parts))}: " if parts else ""


def _words(mistake: Any, model: type[BaseModel]) -> str:
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"there is no such setting; there are {', '.join(known(model, mistake['loc'][:-1]))}"
    if kind in NUMBERS:
        return f"expected {NUMBERS[kind].format(**context)}{_found(mistake['input'])}"
    if kind in OTHERS:
        return f"expected {OTHERS[kind].format(**context)}"
    return str(mistake["msg"]).removeprefix("Value error, ")


def _found(value: object) -> str:
    is_told = isinstance(value, bool | int | float | Decimal | str) and len(str(value)) <= MOST_TOLD
    return f", found {value!r}" if is_told else ""


def known(model: type[BaseModel], parts: Sequence[object]) -> list[str]:
    """Return the settings of a section of a model, in order; of one of several kinds, those of its kind."""
    found = [model]
    for part in parts:
        within = [
            each
            for section in found
            if (field := section.model_fields.get(str(part))) is not None
            for each in _models(field.annotation)
        ]
        # Or it is the name of a kind, or a key of a table, or a place in a list.
        found = within or [each for each in found if _is_called(each, part)] or found
    return sorted({field.alias or name for each in found for name, field in each.model_fields.items()})


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from _models(each)


def _is_called(model: type[BaseModel], kind: object) -> bool:
    return any(kind in get_args(field.annotation) for field in model.model_fields.values())
