"""How a request's class is found: what Envoy reads of it, and the filters that read it. Pure.

The order: the header `x-slo-class`; the request's own targets; what a class says it is recognised by; the default. What
stands in a body is put into metadata by Envoy's JSON filter, and only where a class looks at it: reading holds the
request back until it is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from .envoy_config import NAMESPACE, TYPE, ClassRoute, Json, RoutingTable, Span

CLASS_HEADER: Final = "x-slo-class"
TTFT_HEADER: Final = "x-slo-ttft-ms"
TPOT_HEADER: Final = "x-slo-tpot-ms"

CLASS_OF_BODY: Final = "poolpilot.class_of_body"
"""Name of the filter that reads the body's fields; this one and the next two are off unless a route turns them on."""
NEAREST_CLASS: Final = "poolpilot.nearest_class"
"""Name of the filter that finds the class nearest to the request's own targets."""
BODY_LENGTH: Final = "poolpilot.body_length"
"""Name of the filter that gives a body sent in chunks a length."""

BODY_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""A prompt is held until its class is known and for retries; images inside prompts make it megabytes."""
JSON_BODIES: Final = {
    # Envoy compares the whole header by default, and so misses "application/json; charset=utf-8".
    "allow_content_types_regex": {"regex": r"application/json(\s*;.*)?"}
}

_NUMBERS: Final = NAMESPACE + ".numbers"
_NEAREST: Final = NAMESPACE + ".nearest"
_MODEL: Final = "model"
_MAX_TOKENS: Final = "max_tokens"
_MOST: Final = 1 << 53
"""More than any body or answer has; JSON's numbers are exact up to here."""

NEAREST_SCRIPT: Final = """\
-- The class whose targets are nearest to those that a request brings: as many of the asked ones as possible, then the
-- least sum of distances, each the logarithm of asked over promised. The classes come strictest first, which wins a tie.
local function number(text)
  local value = tonumber(text)
  if value and value > 0 and value < math.huge then return value end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local ttft, tpot = number(headers:get("x-slo-ttft-ms")), number(headers:get("x-slo-tpot-ms"))
  if not ttft and not tpot then return end
  local read = handle:streamInfo():dynamicMetadata():get("poolpilot")
  local model = read and read["model"]
  local nearest, fewest, least = nil, math.huge, math.huge
  for _, class in ipairs(handle:filterContext():get("classes")) do
    if not class["models"] or class["models"][model or ""] then
      local missing, distance = 0, 0
      for _, pair in ipairs({{ttft, class["ttft_ms"]}, {tpot, class["tpot_ms"]}}) do
        if pair[1] and pair[2] then distance = distance + math.abs(math.log(pair[1] / pair[2])) end
        if pair[1] and not pair[2] then missing = missing + 1 end
      end
      if missing < fewest or (missing == fewest and distance < least) then
        nearest, fewest, least = class["name"], missing, distance
      end
    end
  end
  if nearest then
    handle:streamInfo():dynamicMetadata():set("poolpilot.nearest", "class", nearest)
    handle:clearRouteCache()
  end
end
"""
"""Lua, run inside Envoy for requests that tell no class by header."""


def filters() -> list[Json]:
    """The filters that tell classes apart, all off; what they look for comes with the routes, as `settings` has it."""
    lua = {
        "@type": TYPE + "extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": NEAREST_SCRIPT},
    }
    length = {"@type": TYPE + "extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": BODY_LIMIT_BYTES}
    # Envoy wants a rule here; the real ones come with the routes.
    body = _json_reader([_rule((_MODEL,), NAMESPACE, _MODEL, "STRING")])
    named = ((BODY_LENGTH, length), (CLASS_OF_BODY, body), (NEAREST_CLASS, lua))
    return [{"name": name, "typed_config": config, "disabled": True} for name, config in named]


def settings(table: RoutingTable) -> Json:
    """What the filters are to look for in any request, by filter; those that nothing needs are left out."""
    found: Json = {}
    if any(c.body_bytes for c in table.classes):
        limit = {"max_request_bytes": BODY_LIMIT_BYTES}
        found[BODY_LENGTH] = {"@type": TYPE + "extensions.filters.http.buffer.v3.BufferPerRoute", "buffer": limit}
    if rules := _body_rules(table):
        found[CLASS_OF_BODY] = _json_reader(rules)
    if aimed := with_targets(table):
        context = {"classes": [_aim(c) for c in aimed]}
        found[NEAREST_CLASS] = {
            "@type": TYPE + "extensions.filters.http.lua.v3.LuaPerRoute",
            "filter_context": context,
        }
    return found


def with_targets(table: RoutingTable) -> list[ClassRoute]:
    """The classes that a request's own targets can choose, strictest first."""
    most = float("inf")
    aimed = [c for c in table.classes if c.ttft_ms is not None or c.tpot_ms is not None]
    return sorted(aimed, key=lambda c: (c.ttft_ms or most, c.tpot_ms or most))


def told_by_header(name: str | None) -> Json:
    """Requests whose class header is `name`, or that have one."""
    value: Json = {"present_match": True} if name is None else {"string_match": {"exact": name}}
    return {"prefix": "/", "headers": [{"name": CLASS_HEADER, **value}]}


def with_own(header: str) -> Json:
    """Requests with a number in one of the headers for own targets, other than 0."""
    number = {"safe_regex": {"regex": r"0*[1-9][0-9]{0,8}(\.[0-9]{1,9})?"}}
    return {"prefix": "/", "headers": [{"name": header, "string_match": number}]}


def nearest_to(c: ClassRoute) -> Json:
    """Requests whose own targets the class is nearest to."""
    return {"prefix": "/", "dynamic_metadata": [_read(_NEAREST, "class", {"string_match": {"exact": c.name}})]}


def recognised_as(c: ClassRoute) -> Json:
    """Requests that meet all that the class is recognised by."""
    match: Json = {"prefix": c.path_prefix or "/"}
    fields = [_read(NAMESPACE, name, {"string_match": {"exact": value}}) for name, value in c.body_match.items()]
    if c.max_tokens:
        span = _span(c.max_tokens)
        fields.append(_read(_NUMBERS, _MAX_TOKENS, {"double_match": {"range": span}}))
    fields += _of_models(c)
    if fields:
        match["dynamic_metadata"] = fields
    if c.body_bytes:
        match["headers"] = [{"name": "content-length", "range_match": _span(c.body_bytes)}]
    return match


def asking_for_model_of(c: ClassRoute, within: Json) -> Json:
    """Of the requests `within` a match, those that ask for the class's model."""
    return {**within, "dynamic_metadata": [*within.get("dynamic_metadata", ()), *_of_models(c)]}


def _of_models(c: ClassRoute) -> list[Json]:
    if not c.models:
        return []
    any_of = [{"string_match": {"exact": name}} for name in c.models]
    return [_read(NAMESPACE, _MODEL, {"or_match": {"value_matchers": any_of}} if len(any_of) > 1 else any_of[0])]


def _read(namespace: str, key: str, value: Json) -> Json:
    return {"filter": namespace, "path": [{"key": key}], "value": value}


def _span(span: Span) -> Json:
    return {"start": span.at_least, "end": _MOST if span.below is None else span.below}


def _aim(c: ClassRoute) -> Json:
    """A class as the script is told of it."""
    aim: Json = {"name": c.name}
    if c.ttft_ms is not None:
        aim["ttft_ms"] = c.ttft_ms
    if c.tpot_ms is not None:
        aim["tpot_ms"] = c.tpot_ms
    if c.models:
        aim["models"] = dict.fromkeys(c.models, True)
    return aim


def _body_rules(table: RoutingTable) -> list[Json]:
    fields = {name for c in table.classes for name in c.body_match}
    if any(c.models or c.body_bytes for c in table.classes):
        # Of the length too: Envoy tries routes again only after a rule found its field, and every request has a model.
        fields.add(_MODEL)
    rules = [_rule(tuple(name.split(".")), NAMESPACE, name, "STRING") for name in sorted(fields)]
    if any(c.max_tokens for c in table.classes):
        # The second is OpenAI's newer name; where both are given, engines go by it.
        for name in (_MAX_TOKENS, "max_completion_tokens"):
            rules.append(_rule((name,), _NUMBERS, _MAX_TOKENS, "NUMBER"))
    return rules


def _rule(path: Sequence[str], namespace: str, key: str, kind: str) -> Json:
    return {
        "selectors": [{"key": part} for part in path],
        "on_present": {"metadata_namespace": namespace, "key": key, "type": kind},
    }


def _json_reader(rules: list[Json]) -> dict[str, Any]:
    return {
        "@type": TYPE + "extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
        "request_rules": {"rules": rules, **JSON_BODIES, "allow_empty_content_type": True},
    }
