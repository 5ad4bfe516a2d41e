"""The reference of the scenario file, written from the models that check it: every field, its type, default and meaning."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from typing import Any, Final, get_args

from pydantic import BaseModel

from .document import Scenario

_HIDDEN: Final = ("base_dir",)
"""Of the scenario: set by whoever reads the file, not in it."""
_INTRODUCTION: Final = """\
# Reference of the scenario file

Made by `poolpilot scenarios --reference` from the models that check the file: change those, and make it again. How the
parts work together, with examples: [scenarios.md](scenarios.md). A field without a default must be given. Units are in
the names: `_s` seconds, `_frac` a share, `_per_s` and `_per_hr` rates, `usd` dollars.
"""


def reference() -> str:
    """The whole page, in Markdown."""
    schema = Scenario.model_json_schema()
    parts = [_INTRODUCTION, _section("Scenario", "scenario", Scenario, schema)]
    models = {model.__name__: model for model in models_of(Scenario)}
    parts += [_section(name, name, models[name], schema["$defs"][name]) for name in sorted(schema["$defs"])]
    return "\n".join(parts)


def models_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The model and every one that a field of it can hold, each once."""
    found, ahead = {model}, [model]
    while ahead:
        current = ahead.pop()
        yield current
        for field in current.model_fields.values():
            for held in _models_within(field.annotation):
                if held not in found:
                    found.add(held)
                    ahead.append(held)


def _models_within(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_within(argument)


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """What stands under each field of a model, base classes included, on one line each."""
    docs: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if not issubclass(owner, BaseModel) or owner is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                text = ast.literal_eval(below.value) if isinstance(below.value, ast.Constant) else ""
                docs[field.target.id] = " ".join(str(text).split())
    return docs


def _section(title: str, name: str, model: type[BaseModel], schema: dict[str, Any]) -> str:
    lines = [f"## {title}", "", f'<a id="{name.lower()}"></a>{_about(model)}', ""]
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    docs, names = field_docs(model), {field.alias or name: name for name, field in model.model_fields.items()}
    for shown, described in schema["properties"].items():
        if shown in _HIDDEN:
            continue
        default = "" if shown in schema.get("required", ()) else _default(described.get("default"))
        meaning = docs.get(names[shown]) or _meaning_of_type(model.model_fields[names[shown]].annotation, described)
        cells = (f"`{shown}`", _type(described), default, meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _meaning_of_type(annotation: Any, described: dict[str, Any]) -> str:
    """What a field without words of its own means: the model that it holds, or the kind that it names."""
    if "const" in described:
        return "Says that it is this kind."
    held = [_about(model) for model in _models_within(annotation)]
    return held[0] if len(held) == 1 else ""


def _about(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "its own defaults"
    return f"`{json.dumps(value)}`"


def _type(described: dict[str, Any]) -> str:
    if "$ref" in described:
        name = described["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    options = described.get("anyOf") or described.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(_type(option) for option in options if option.get("type") != "null"))
    if "enum" in described or "const" in described:
        return " or ".join(f"`{value}`" for value in described.get("enum", [described.get("const")]))
    kind = described.get("type")
    if kind == "array":
        held = described.get("prefixItems")
        inside = "pair of " + " and ".join(map(_type, held)) if held else _type(described.get("items", {}))
        return inside if held else f"list of {inside}{_count(described, 'Items')}"
    if kind == "object":
        values = [*described.get("patternProperties", {}).values(), described.get("additionalProperties", {})]
        return f"mapping of names to {_type(values[0])}{_count(described, 'Properties')}"
    if kind in ("number", "integer"):
        return ("whole number" if kind == "integer" else "number") + _bounds(described)
    words = {"string": "path" if described.get("format") == "path" else "text", "boolean": "true or false"}
    return words.get(str(kind), "anything")


def _bounds(described: dict[str, Any]) -> str:
    low, high = described.get("minimum"), described.get("maximum")
    words = []
    if "exclusiveMinimum" in described:
        words.append(f"above {described['exclusiveMinimum']:g}")
    elif low is not None and high is None:
        words.append(f"at least {low:g}")
    if low is not None and high is not None:
        words.append(f"{low:g} to {high:g}")
    elif high is not None:
        words.append(f"at most {high:g}")
    if "exclusiveMaximum" in described:
        words.append(f"below {described['exclusiveMaximum']:g}")
    return ", " + ", ".join(words) if words else ""


def _count(described: dict[str, Any], of: str) -> str:
    high = described.get(f"max{of}")
    return f", at most {high}" if high is not None else ""
