"""The one validator of fields that come from outside: files of strangers, and the arguments of a web page.

A `Check` takes a field's name and value and returns the value to use, or raises an InputError that names the field, the
value and what was expected.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from rewriter.errors import InputError

Check = Callable[[str, Any], Any]


def refusal(name: str, value: Any, expected: str) -> InputError:
    """The error for a field that holds the wrong thing."""
    return InputError(f"{name} is {reprlib.repr(value)[:200]}, expected {expected}")


def fields(
    what: str, data: Any, checks: Mapping[str, Check], *, optional: Collection[str] = (), ignore: Collection[str] = ()
) -> dict[str, Any]:
    """Check an object, as parsed from JSON, field by field; errors call it `what`.

    `optional` fields may be absent, and fields to `ignore` may be there and are not returned. InputError if it is not
    an object, or for a field that is missing, unknown or wrong.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{what} is {reprlib.repr(data)}, expected an object with {', '.join(checks)}")
    if unknown := sorted(str(name) for name in data if name not in checks and name not in ignore):
        raise InputError(f"unknown field {', '.join(map(reprlib.repr, unknown[:3]))} in {what}")
    if missing := [name for name in checks if name not in data and name not in optional]:
        raise InputError(f"{what} lacks {', '.join(missing)}")
    return {name: check(name, data[name]) for name, check in checks.items() if name in data}


def optional(check: Check) -> Check:
    """The same check; None passes too."""
    return lambda name, value: None if value is None else check(name, value)


def text(length: int) -> Check:
    """One printable line of at most `length` characters."""
    expected = f"one line of at most {length} characters"
    return _if(lambda value: isinstance(value, str) and len(value) <= length and value.isprintable(), expected)


def matching(pattern: str, expected: str) -> Check:
    """A text that the regular expression matches as a whole; `expected` describes it in errors."""
    return _if(lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, expected)


def choice(choices: tuple[str, ...]) -> Check:
    """One of these words."""
    return _if(lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}", use=str)


def number(low: float, high: float) -> Check:
    """A finite number within bounds, both included."""
    expected = f"a number from {low:g} to {high:g}"
    return _if(lambda value: _is(value, (int, float)) and low <= value <= high, expected, use=float)


def whole(low: int, high: int) -> Check:
    """A whole number within bounds, both included."""
    return _if(lambda value: _is(value, int) and low <= value <= high, f"a whole number from {low} to {high}")


def _if(holds: Callable[[Any], bool], expected: str, *, use: Callable[[Any], Any] = lambda value: value) -> Check:
    """The check that returns `use` of a value for which something holds, and raises an InputError for others."""

    def check(name: str, value: Any) -> Any:
        if not holds(value):
            raise refusal(name, value, expected)
        return use(value)

    return check


def _is(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """Whether a value is a number of these kinds; Python counts True and False as whole numbers, this does not."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def flag(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise refusal(name, value, "true or false")
    return value


def list_of(item: Check, most: int) -> Check:
    """A list of at most `most` entries, as a tuple; each entry passes `item`."""

    def check(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)) or len(value) > most:
            raise refusal(name, value, f"a list of at most {most}")
        return tuple(item(f"{name} {i + 1}", entry) for i, entry in enumerate(value))

    return check


def object_of(checks: Mapping[str, Check], *, optional: Collection[str] = ()) -> Check:
    """An object with these fields, of which the `optional` ones may be absent; errors name the outer field too."""

    def check(name: str, value: Any) -> dict[str, Any]:
        try:
            return fields("the object", value, checks, optional=optional)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error

    return check
