"""The API does what its document says, and nothing else: schemathesis asks it all that is allowed and forbidden."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from prometheus_client import CollectorRegistry
from schemathesis import APIOperation, GenerationMode

from poolpilot.controller.actuators.caps import Caps
from poolpilot.controller.api import STANDBY, Backing, View, api
from poolpilot.controller.openapi import document
from poolpilot.env.contract import Mode
from poolpilot.telemetry.access import Access, serving

from .ticks import a_sitting, sat_through

TOKEN = "0123456789abcdef"
OPERATIONS = [
    (path, method.upper()) for path, operations in document()["paths"].items() for method in operations if path
]
WITH_INPUT = [("/v1/mode", "PUT"), ("/v1/caps/{pool}", "GET")]


class Standing:
    """A sidecar that stands still, but for its mode."""

    def __init__(self) -> None:
        (record,) = sat_through(a_sitting(), 1, seed=3)
        self.pools = record.sitting.cluster.pool_names
        self.view = View(0.5, decided=True, snapshot=record.snapshot, decision=record.decision)

    def request_mode(self, mode: Mode) -> str | None:
        if mode is Mode.CANARY:
            return "the gate waits for 12 more ticks"
        self.view = replace(self.view, mode=mode, goal=mode)
        return None

    def caps(self, pool: str) -> Caps | None:
        return Caps(3, 8, 512) if pool in self.pools else None

    @property
    def backing(self) -> Backing:
        return Backing(lambda: self.view, CollectorRegistry, self.caps, self.request_mode)


@contextmanager
def served(standing: Standing, access: Access) -> Iterator[str]:
    """The API in a thread of its own: whoever asks here does not wait in its loop."""
    loop, url, over = asyncio.new_event_loop(), list[str](), asyncio.Event()
    up = threading.Event()

    async def serve() -> None:
        async with serving(api(standing.backing, 30.0, access), port=0) as address:
            url.append(address)
            up.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert up.wait(30)
    try:
        yield url[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)
        loop.close()


def asked(url: str, path: str, method: str, mode: GenerationMode, examples: int = 20) -> None:
    """Ask an operation whatever comes to mind, and hold every answer against the document."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers)
    operation: APIOperation[Any, Any, Any] = schema[path][method]

    @settings(
        max_examples=examples,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def hold(case: Any) -> None:
        case.call_and_validate(headers=headers)

    hold()


@pytest.fixture(scope="module")
def here() -> Iterator[str]:
    with served(Standing(), Access(TOKEN)) as url:
        yield url


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    with served(Standing(), Access(TOKEN, loopback=False)) as url:
        yield url


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_what_is_allowed_is_answered_as_the_document_says(here: str, elsewhere: str, path: str, method: str) -> None:
    for url in (here, elsewhere):
        asked(url, path, method, GenerationMode.POSITIVE, examples=20 if (path, method) in WITH_INPUT else 2)


@pytest.mark.parametrize(("path", "method"), WITH_INPUT)
def test_what_is_forbidden_is_refused_as_the_document_says(here: str, elsewhere: str, path: str, method: str) -> None:
    for url in (here, elsewhere):
        asked(url, path, method, GenerationMode.NEGATIVE)


def test_a_sidecar_that_stands_by_answers_as_the_document_says() -> None:
    standing = Standing()
    standing.view = View(0.5, decided=False, role=STANDBY, leader="other:1:ab")
    with served(standing, Access(TOKEN)) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        for path, method in OPERATIONS:
            operation = schema[path][method]
            body = {"mode": "active"} if method == "PUT" else None
            parameters = {"pool": "nobody"} if "{pool}" in path else {}
            made = {} if body is None else {"body": body, "media_type": "application/json"}
            case = operation.Case(path_parameters=parameters, headers={"Authorization": f"Bearer {TOKEN}"}, **made)
            response = case.call()
            assert str(response.status_code) in document()["paths"][path][method.lower()]["responses"]
            case.validate_response(response, checks=[schemathesis.checks.CHECKS.get_one("response_schema_conformance")])


def test_every_path_that_is_served_is_in_the_document() -> None:
    app = api(Standing().backing, 30.0)
    served_paths = {
        (resource.canonical, route.method)
        for resource in app.router.resources()
        for route in resource
        if route.method != "HEAD"
    }
    assert served_paths == set(OPERATIONS)
