"""What is wrong with a file, as one line that any terminal can print, whatever the file holds."""

from __future__ import annotations

from typing import Any, Final

from pydantic import ValidationError

MAX_LINE: Final = 1000
MAX_SHOWN: Final = 80
"""Characters shown of a wrong value, and of each step to it."""


def one_line(message: str) -> str:
    """The message without line breaks, lone surrogates and what is beyond `MAX_LINE` characters."""
    line = " ".join(message.split())
    return line.encode(errors="backslashreplace").decode()[:MAX_LINE]


def first_problem(error: ValidationError) -> str:
    """The first problem, as `field: value: what would be right`."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(step)[:MAX_SHOWN] for step in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    seen = first["input"]
    plain = isinstance(seen, str | int | float | bool) or seen is None
    return ": ".join(part for part in (where, shown(seen) if plain else "", message) if part)


def shown(value: Any) -> str:
    """A value from a file, short; of a list or mapping only that it is one."""
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to write out thousands of digits
        return f"a whole number of {value.bit_length()} bits"
    text = repr(value) if isinstance(value, str | int | float | bool) or value is None else f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
