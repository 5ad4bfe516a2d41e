"""The sidecar's API as an OpenAPI 3.1 document, its answers' shapes made from the contract itself."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, get_args, get_origin, get_type_hints

import numpy as np

from ..env import contract
from ..env.contract import (
    CLASS_COLUMNS,
    POOL_COLUMNS,
    SCHEMA_VERSION,
    Action,
    Column,
    Decision,
    Mode,
    Reason,
)

Json = dict[str, Any]
POOL_PATTERN: Final = "^[A-Za-z0-9_.-]+$"
_NUMBER: Final[Json] = {
    "description": "null where it is unknown",
    "anyOf": [{"type": "number"}, {"type": "null"}, {"enum": ["inf", "-inf"]}],
}
_NUMBERS: Final[Json] = {
    "description": "Numbers, by class or pool in the scenario's order; a table by class and pool is a list of lists.",
    "type": "array",
    "items": {"anyOf": [_NUMBER, {"$ref": "#/components/schemas/Numbers"}]},
}
_TEXT: Final[Json] = {"type": "string"}
_TEXTS: Final[Json] = {"type": "array", "items": _TEXT}
_WARNINGS: Final[Json] = {**_TEXTS, "description": "what it can do without: it decides and acts all the same"}


def document(*, loopback: bool = True) -> Json:
    """All that the API answers, for people and generators; `loopback`: only this machine can ask, and may read freely."""
    paths = _paths()
    if loopback:
        for operations in paths.values():
            if reading := operations.get("get"):
                reading.pop("security", None)
                reading["responses"].pop("401", None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "poolpilot sidecar",
            "version": _version(),
            "description": "What one sidecar sees, decides and is allowed to do. Reading on loopback needs no token;"
            " whatever changes something does, and so does everything at any other address but whether it lives.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _paths() -> Json:
    verdict = _answer("Yes, or what is wrong", _ref("Verdict"))
    return {
        "/healthz": {
            "get": _operation(
                "alive",
                "Whether ticks come (or, standing by, whether it looks for the lease): if not, restart it",
                {"200": verdict, "503": verdict},
            )
        },
        "/readyz": {
            "get": _operation(
                "ready",
                "Whether it leads, can decide, and its decisions reach the proxy",
                {"200": verdict, "503": verdict},
            )
        },
        "/metrics": {
            "get": _operation(
                "metrics",
                "For Prometheus",
                {"200": {"description": "The exposition format", "content": {"text/plain": {"schema": _TEXT}}}},
                token=True,
            )
        },
        "/v1/status": {
            "get": _operation(
                "status", "Role, mode, and what is wrong", {"200": _answer("As of now", _ref("Status"))}, token=True
            )
        },
        "/v1/snapshot": {"get": _latest("snapshot", "Snapshot", "What was seen at the last tick")},
        "/v1/decision": {"get": _latest("decision", "Decision", "What was decided at the last tick, and why")},
        "/v1/caps/{pool}": {"get": _caps()},
        "/v1/mode": {"put": _mode()},
        "/openapi.json": {
            "get": _operation(
                "openapi", "This document", {"200": _answer("OpenAPI 3.1", {"type": "object"})}, token=True
            )
        },
    }


def _latest(what: str, schema: str, summary: str) -> Json:
    answers = {"200": _answer("The latest", _ref(schema)), "503": _answer("There is none yet", _ref("Error"))}
    return _operation(what, summary, answers, token=True)


def _caps() -> Json:
    parameter = {
        "name": "pool",
        "in": "path",
        "required": True,
        "description": "A pool of the scenario",
        "schema": {"type": "string", "pattern": POOL_PATTERN},
    }
    answers = {
        "200": _answer("As engines read them", _ref("Caps")),
        "404": _answer("No such pool, or no caps yet", _ref("Error")),
    }
    return {
        **_operation("caps", "What each engine of a pool may run at once", answers, token=True),
        "parameters": [parameter],
    }


def _mode() -> Json:
    answers = {
        "200": _answer("It is in force, or under way as its gates allow", _ref("Status")),
        "400": _answer("Not a mode", _ref("Error")),
        "403": _answer("No token was set for this sidecar: nothing can be changed", _ref("Error")),
        "409": _answer("Not to be had, and why", _ref("Error")),
        "413": _answer("Too large to be a mode", _ref("Error")),
        "503": _answer("This sidecar stands by: ask the one that leads", _ref("Error")),
    }
    body = {"required": True, "content": {"application/json": {"schema": _ref("ModeRequest")}}}
    summary = "Ask for a mode: down at once, up one rung at a time as its gates allow"
    return {**_operation("setMode", summary, answers, token=True), "requestBody": body}


def _operation(name: str, summary: str, answers: Json, *, token: bool = False) -> Json:
    described: Json = {"operationId": name, "summary": summary, "responses": answers}
    if token:
        described["security"] = [{"token": []}]
        described["responses"] = {**answers, "401": _answer("No token, or a wrong one", _ref("Error"))}
    return described


def _answer(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> Json:
    mode = {"enum": [mode.value for mode in Mode]}
    return {
        "Numbers": _NUMBERS,
        "Error": _object({"error": _TEXT}),
        "Verdict": _object({"ok": {"type": "boolean"}, "problems": _TEXTS, "warnings": _WARNINGS}),
        "ModeRequest": _object({"mode": mode}),
        "Caps": _object(
            {
                "fencing_token": {"type": "integer", "minimum": 0},
                "batch_cap": {"type": "integer", "minimum": 1, "description": "sequences"},
                "token_budget": {"type": "integer", "minimum": 1, "description": "tokens in one iteration"},
            }
        ),
        "Status": _object(
            {
                "role": {"enum": ["leader", "standby"]},
                "leader": {**_TEXT, "description": "who leads, as last heard"},
                "fencing_token": {"type": "integer", "minimum": 0},
                "mode": mode,
                "goal": {**mode, "description": "as high as the mode may rise by itself"},
                "gate": {**_TEXT, "description": "what the next mode waits for"},
                "last_move": {**_TEXT, "description": "how the mode came about, where it changed"},
                "version": {**_TEXT, "description": "that decides, where the policy is a registry's"},
                "trial": {**_TEXT, "description": "of a candidate beside it, and how far it has come"},
                "exploration": {**_TEXT, "description": "what its campaign has spent, and whether it is over"},
                "ticks": {"type": "integer", "minimum": 0},
                "fallback_ticks": {"type": "integer", "minimum": 0},
                "tick_age_s": {"type": "number", "minimum": 0},
                "ready": {"type": "boolean"},
                "problems": {**_TEXTS, "description": "why it is not ready"},
                "warnings": _WARNINGS,
            }
        ),
        "Snapshot": _object(
            {
                "schema": {"const": SCHEMA_VERSION},
                "time_s": {"type": "number", "description": "seconds on the decider's clock"},
                "classes": _object({c.name: _column(c) for c in CLASS_COLUMNS}),
                "pools": _object({c.name: _column(c) for c in POOL_COLUMNS}),
                "forecast_per_s": {**_NUMBERS, "description": "by class and horizon, expected requests/s"},
            }
        ),
        **{kind.__name__: _object_of(kind) for kind in (Action, Reason, Decision)},
    }


def _column(column: Column) -> Json:
    return {"type": "array", "items": _NUMBER, "description": f"{column.doc}, in {column.unit}"}


def _object_of(kind: type[Any]) -> Json:
    """The shape that `env.wire` gives a dataclass of the contract."""
    hints = get_type_hints(kind, vars(contract))
    return _object({field.name: _shape(hints[field.name]) for field in fields(kind)})


def _shape(hint: Any) -> Json:
    if get_origin(hint) is np.ndarray:
        return _ref("Numbers")
    if get_origin(hint) is tuple:
        return {"type": "array", "items": _shape(get_args(hint)[0])}
    if is_dataclass(hint) and isinstance(hint, type):
        return _ref(hint.__name__)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [member.value for member in hint]}
    return {int: {"type": "integer"}, str: _TEXT, float: _NUMBER}[hint]


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _version() -> str:
    try:
        return version("poolpilot")
    except PackageNotFoundError:  # run from a clone
        return "0"
