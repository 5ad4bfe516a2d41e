"""Bad input ends a command with exit code 2 and one clear line, never with a traceback."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")


class BadInput(click.ClickException):
    """The user's input cannot be used."""

    exit_code = 2

    def format_message(self) -> str:
        """One line."""
        return " ".join(self.message.split())


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the project's own errors about files and values (all are ValueErrors) and file errors into `BadInput`."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except BrokenPipeError:  # whoever read our output has seen enough, as `head` does
            raise
        except OSError as error:
            refuse(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))
        except ValueError as error:
            # A bug's ValueError must keep its traceback: only errors that we raise ourselves are for the user.
            if type(error).__module__.startswith(__package__.split(".")[0]):
                refuse(str(error))
            raise

    return wrapped


def refuse(message: str) -> NoReturn:
    """Stop with exit code 2 and `message`."""
    raise BadInput(message)
