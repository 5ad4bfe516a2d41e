"""Command lines out of documents, and what the real command line would say of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping

import click

from poolpilot.cli import main

_OPERATORS = set("|&;()<>")
_REDIRECTION = re.compile(r"(?<=\s)(\d?>>?|<)\s*(&\d|\S+)")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*")


def commands(text: str) -> Iterator[list[str]]:
    """Simple commands of a shell script, as words: without comments, redirections, assignments and here-documents."""
    text = re.sub(r"\\\n\s*", " ", text)
    text = re.sub(r"<<-?\s*['\"]?(\w+)['\"]?(.*?)\n.*?^\s*\1$", r"\2", text, flags=re.MULTILINE | re.DOTALL)
    for line in text.splitlines():
        yield from _of_line(_REDIRECTION.sub("", line))


def _of_line(line: str) -> Iterator[list[str]]:
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:  # quotes that do not end here: text of several lines, or prose
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= _OPERATORS:
            if command:
                yield command
            command = []
        elif command or not _ASSIGNMENT.fullmatch(word):
            command.append(word)


def complaint(words: list[str], *, whole: bool = True) -> str | None:
    """What `poolpilot` says against these words after its name, None if nothing.

    Options must exist, have their values, choices be among those there are. Files need not be there, words in capitals
    stand for anything. Unless it is `whole`, what is required may be missing, and the last option's value.
    """
    command: click.Command = main
    context = click.Context(command, info_name="poolpilot")
    try:
        while isinstance(command, click.Group):
            if type(command).parse_args is not click.Group.parse_args and (
                not words or words[0] not in command.commands
            ):
                words = ["show", *words]  # a group that takes what is no command of its own for what is to be shown
            _, words, _ = command.make_parser(context).parse_args(list(words))
            if not words:
                return None
            name, *words = words
            found = command.get_command(context, name)
            if found is None:
                return f"no command {name}"
            command, context = found, click.Context(found, info_name=name, parent=context)
        given, extra, _ = command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        spoken_of = not whole and isinstance(error, click.BadOptionUsage) and words[-1] == error.option_name
        return None if spoken_of else error.format_message()
    if extra:
        return f"does not take {' '.join(extra)}"
    return next(filter(None, (_amiss(parameter, given, whole) for parameter in command.params)), None)


def _amiss(parameter: click.Parameter, given: Mapping[str, object], whole: bool) -> str | None:
    value = given.get(parameter.name or "")
    values = [own for own in (value if isinstance(value, list | tuple) else [value]) if isinstance(own, str)]
    if whole and parameter.required and not values and not parameter.envvar:
        return f"wants {parameter.opts[0]}"
    if isinstance(parameter.type, click.Choice):
        choices = list(parameter.type.choices)
        return next((f"{own}: not among {choices}" for own in values if own not in choices and not own.isupper()), None)
    return None
