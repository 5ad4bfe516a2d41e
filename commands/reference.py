"""The reference of the command line, written from the commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Final

import click

_INTRODUCTION: Final = """\
# Reference of the command line

Made by `poolpilot --reference` from the commands themselves: change those, and make it again. Each command prints tables
for people and, with `--json`, one JSON document on stdout; progress and logs go to stderr. The exit status is 0 when it
did what was asked, 2 with one line that says what is wrong when the input is, and 1 when something else failed.
"""
_PREFORMATTED: Final = "\b"
"""What click takes at a paragraph's start for: leave its lines as they are."""


def reference(main: click.Group) -> str:
    """The whole page, in Markdown; `main` is the group of all commands."""
    return "\n".join([_INTRODUCTION, *(_section(context) for context in _contexts(main))])


def _contexts(main: click.Group) -> Iterator[click.Context]:
    """Of every command, in the order in which help lists them; groups before what is in them."""
    ahead = [click.Context(main, info_name=main.name if main.name != "main" else "poolpilot")]
    while ahead:
        context = ahead.pop(0)
        if context.parent is not None:
            yield context
        if isinstance(context.command, click.Group):
            names = context.command.list_commands(context)
            held = [(name, context.command.get_command(context, name)) for name in names]
            ahead[:0] = [click.Context(own, info_name=name, parent=context) for name, own in held if own is not None]


def _section(context: click.Context) -> str:
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"## {context.command_path}", "", *_text(command.help), "```text", usage, "```", ""]
    rows = [row for parameter in command.get_params(context) if (row := _row(parameter, context)) is not None]
    if rows:
        parts += ["| option | what it does |", "|---|---|", *rows, ""]
    return "\n".join([*parts, *_text(command.epilog)])


def _text(text: str | None) -> Iterator[str]:
    """Paragraphs as Markdown's; what is preformatted becomes a block of its own."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text or "").strip()):
        if paragraph.startswith(_PREFORMATTED):
            lines = paragraph.removeprefix(_PREFORMATTED).strip("\n").split("\n")
            if lines[1:] and not lines[0].startswith(" ") and all(line.startswith(" ") for line in lines[1:]):
                yield from [lines.pop(0), ""]  # says what the others are
            indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
            yield from ["```", *(line[indent:] for line in lines), "```", ""]
        elif paragraph:
            yield from [_plain(" ".join(paragraph.split())), ""]


def _row(parameter: click.Parameter, context: click.Context) -> str | None:
    """A line of the table; arguments stand in the usage and are explained by the command's text."""
    record = parameter.get_help_record(context)
    if record is None or not isinstance(parameter, click.Option) or "--help" in parameter.opts:
        return None
    names, meaning = record
    return f"| `{names.replace('|', chr(92) + '|')}` | {_plain(' '.join(meaning.split()))} |"


def _plain(text: str) -> str:
    """Help text that means in Markdown what it means on a terminal; code in backquotes stays code."""
    pieces = re.split(r"(`[^`]*`)", text)
    pieces[::2] = [re.sub(r"([<*\\])", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces).replace("|", "\\|")
