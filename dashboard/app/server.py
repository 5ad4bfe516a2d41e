"""The dashboard's server: pages and assets, data and figures as JSON, and a stream of news (server-sent events).

It only ever reads. A page learns from the stream that there is a new tick and asks again for what it shows: tables of its
tab, and the figures that are in sight. What several readers ask alike is made once.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import astuple, fields
from functools import cache
from pathlib import Path
from typing import Any, Final

import plotly.graph_objects as go
from aiohttp import web
from plotly.offline import get_plotlyjs

from ...telemetry.access import Access
from ..figures.attainment import attainment_figure
from ..figures.attainment_rows import AttainmentRow, rows_of_summary
from ..figures.differences import differences_figure
from ..figures.palette import CONFIG, DARK, DARK_OF, LIGHT, Theme
from ..figures.training import training_figure
from ..reading.explaining import explained, listed
from ..reading.history import Filter
from ..reading.now import fleet_now
from ..reading.runs import RunError, RunReader, Runs, differences, differences_table, policies_table
from ..reading.savings import saved
from ..reading.sources import NoSource
from .figures import OF_TICKS, SAID
from .following import Following
from .guarding import HEADERS, Door

ASSETS: Final = Path(__file__).resolve().parent / "assets"
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_QUIET_S: Final = 15.0
"""A stream on which nothing happened for so long says so, so that proxies keep it open."""
_LEAST_SPAN_S: Final = 60.0
_KEPT_ANSWERS: Final = 64
_GZIP_BYTES: Final = 1400
"""One packet: packing less saves nothing."""
_FIRST_TAGS: Final = ("cluster/bill_of_reference", "cluster/attainment", "evaluation/loss", "rollout/ep_rew_mean")
_MOST_CURVES: Final = 12
_FRONTIER_PX: Final = 460


def dashboard(following: Following, runs: RunReader, access: Access | None = None) -> web.Application:
    """The application.

    Args:
        following: whose ticks are shown; it is run as long as the application is.
        runs: reads the folders of evaluations and training.
        access: who may look; left out: whoever is on this machine.
    """
    door = Door(access or Access())
    pages = _Pages(following, runs, door)
    app = web.Application(middlewares=door.middlewares, client_max_size=4096)
    app.router.add_get("/", pages.index)
    app.router.add_get("/login", pages.login)
    app.router.add_post("/login", door.sign_in)
    app.router.add_get("/healthz", pages.healthz)
    app.router.add_get("/assets/{name}", pages.asset)
    app.router.add_get("/events", pages.events)
    app.router.add_get("/data/now", pages.now)
    app.router.add_get("/data/decisions", pages.decisions)
    app.router.add_get("/data/decision", pages.decision)
    app.router.add_get("/data/savings", pages.savings)
    app.router.add_get("/data/policies", pages.policies)
    app.router.add_get("/figures/{key}", pages.figure)
    app.cleanup_ctx.append(pages.running)
    app.on_shutdown.append(pages.close)
    return app


class _Pages:
    """Answers."""

    def __init__(self, following: Following, runs: RunReader, door: Door) -> None:
        self._following, self._runs, self._door = following, runs, door
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        self._closing = asyncio.Event()

    async def running(self, app: web.Application) -> AsyncIterator[None]:
        """The source is followed as long as the application serves."""
        task = asyncio.create_task(self._following.run())
        yield
        while not task.done():  # a client of the store may take a cancellation for its own timeout, and go on
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
        await self._following.source.close()

    async def close(self, app: web.Application) -> None:
        """End the streams."""
        self._closing.set()

    async def index(self, request: web.Request) -> web.Response:
        """The page."""
        return _html("index.html")

    async def login(self, request: web.Request) -> web.StreamResponse:
        """The form for the token, where one is needed."""
        if self._door.admits(request):
            raise web.HTTPSeeOther("/")
        return _html("wrong.html" if request.query.get("wrong") else "login.html")

    async def healthz(self, request: web.Request) -> web.Response:
        """Whether the source answers; why not is for those who may look."""
        ok = self._following.started and not self._following.trouble
        return web.json_response({"ok": ok}, status=200 if ok else 503)

    async def asset(self, request: web.Request) -> web.Response:
        """Scripts and styles."""
        found = assets().get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound(text="no such asset\n")
        kind, packed, tag = found
        headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding", "ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag, "Cache-Control": "no-cache"})
        return web.Response(body=packed, content_type=kind, charset="utf-8", headers=headers)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """A line for every change, as long as somebody listens."""
        answer = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        answer.headers.update(HEADERS)
        await answer.prepare(request)
        changes = self._following.changes(_QUIET_S)
        closing = asyncio.create_task(self._closing.wait())
        try:
            while True:
                following = asyncio.ensure_future(anext(changes))
                await asyncio.wait({following, closing}, return_when=asyncio.FIRST_COMPLETED)
                if closing.done():
                    following.cancel()
                    break
                state = following.result()
                text = ": quiet\n\n" if state is None else f"event: state\ndata: {_json(state)}\n\n"
                await answer.write(text.encode())
        except ConnectionError:
            pass  # whoever listened is gone
        finally:
            closing.cancel()
        return answer

    async def now(self, request: web.Request) -> web.Response:
        """Fleet now."""
        wanted = self._filter(request)

        def made() -> dict[str, Any]:
            newest = self._following.history.newest
            if newest is None:
                return {"empty": self._no_ticks()}
            return {"empty": "", **fleet_now(newest, wanted), "figures": SAID}

        return await self._answer(request, made)

    async def decisions(self, request: web.Request) -> web.Response:
        """The newest decisions."""
        wanted, changed_only = self._filter(request), request.query.get("all") != "1"
        ticks = self._following.history.last(wanted.span_s)

        def made() -> dict[str, Any]:
            if not ticks:
                return {"empty": self._no_ticks()}
            return {"empty": "", "list": listed(ticks, wanted, changed_only=changed_only)}

        return await self._answer(request, made)

    async def decision(self, request: web.Request) -> web.Response:
        """One decision explained: that of `id`, or the newest."""
        wanted, history = self._filter(request), self._following.history
        asked = request.query.get("id", "")
        tick, before = history.find(asked)
        if tick is None:
            gone = f"Tick {asked[:40]} is not among the {len(history.ticks)} ticks kept here; choose another one."
            return _json_answer({"empty": gone if asked and history.ticks else self._no_ticks()})
        return await self._answer(request, lambda: {"empty": "", **explained(tick, before, wanted)})

    async def savings(self, request: web.Request) -> web.Response:
        """What was saved."""
        wanted = self._filter(request)
        ticks = self._following.history.last(wanted.span_s)
        return await self._answer(request, lambda: saved(ticks, wanted))

    async def policies(self, request: web.Request) -> web.Response:
        """Evaluation and training runs."""
        runs = await asyncio.to_thread(self._runs.read)
        query = request.query
        return _json_answer(
            await asyncio.to_thread(
                self._policies, runs, query.get("run", ""), query.get("against", ""), query.get("suite", "")
            )
        )

    def _policies(self, runs: Runs, name: str, against: str, suite: str) -> dict[str, Any]:
        run = runs.evaluation(name)
        told: dict[str, Any] = {
            "empty": "",
            "roots": [str(root) for root in self._runs.roots],
            "runs": [r.name for r in runs.evaluations if not r.problem],
            "problems": runs.problems,
            "trainings": [{"name": r.name, "tags": list(r.tags)} for r in runs.trainings if r.tags],
            "first_tags": list(_FIRST_TAGS),
            "run": None,
        }
        if not self._runs.roots:
            told["empty"] = (
                "No folders of runs were named. Start the dashboard with --runs DIR, as often as there are folders."
            )
        elif run is None and not told["trainings"]:
            told["empty"] = (
                f"No evaluation and no training run below {', '.join(told['roots'])}. poolpilot evaluate --out DIR makes one."
            )
        if run is None:
            return told
        suite = suite if suite in run.suites else run.suites[0]
        told |= {
            "run": run.name,
            "suites": list(run.suites),
            "suite": suite,
            "command": str(run.manifest.get("command", "")),
            "commit": str(run.manifest.get("commit", ""))[:12],
            "table": policies_table(run, suite),
            "against": "",
            "differences": None,
        }
        other = runs.evaluation(against) if against else None
        if other is not None and other.name != run.name:
            try:
                told |= {
                    "against": other.name,
                    "differences": differences_table(differences(run, other, suite), other.name),
                }
            except RunError as error:
                told["problems"].append(str(error))
        return told

    async def figure(self, request: web.Request) -> web.Response:
        """One figure; null where there is nothing to draw."""
        key = request.match_info["key"]
        if key in OF_TICKS:
            wanted = self._filter(request)
            ticks = self._following.history.last(wanted.span_s)
            return await self._answer(request, lambda: _drawn(OF_TICKS[key](ticks, wanted)))
        if key in ("frontier", "differences", "training"):
            return _json_answer(await asyncio.to_thread(self._of_runs, key, request))
        raise web.HTTPNotFound(text="no such figure\n")

    def _of_runs(self, key: str, request: web.Request) -> Any:
        runs, query = self._runs.read(), request.query
        if key == "training":
            names, tags = query.getall("run", []), query.getall("tag", [])
            chosen = [run for run in runs.trainings if run.name in names][:_MOST_CURVES]
            rows = self._runs.curves(chosen, tags[:_MOST_CURVES])
            return _drawn(training_figure(rows) if rows else None)
        run = runs.evaluation(query.get("run", ""))
        suite = query.get("suite", "")
        if run is None or suite not in run.suites:
            return None
        if key == "frontier":
            rows_of_suite = [row for row in rows_of_summary(run.summary) if row["panel"] == suite]
            return _drawn(_frontier(rows_of_suite) if rows_of_suite else None)
        other = runs.evaluation(query.get("against", ""))
        try:
            between = differences(run, other, suite) if other is not None else []
        except RunError:
            between = []
        return _drawn(differences_figure(between) if between else None)

    def _filter(self, request: web.Request) -> Filter:
        query = request.query
        try:
            span_s = float(query.get("span", self._following.history.span_s))
        except ValueError:
            raise web.HTTPBadRequest(text=f"span: {query.get('span', '')[:40]!r}, wanted seconds\n") from None
        if not span_s >= _LEAST_SPAN_S:
            span_s = _LEAST_SPAN_S
        return Filter(
            tuple(query.getall("class", [])),
            tuple(query.getall("pool", [])),
            min(span_s, self._following.history.span_s),
        )

    def _no_ticks(self) -> str:
        if isinstance(self._following.source, NoSource):
            return (
                "No sidecar was named. Start the dashboard with the --store and --store-prefix of a sidecar, or with --log"
                " DIR/decisions.jsonl; the tab Policies shows runs without one."
            )
        if self._following.trouble:
            return f"Nothing can be read: {self._following.trouble}"
        if not self._following.started:
            return f"Reading {self._following.source.name} ..."
        return (
            f"No ticks in {self._following.source.name} yet. Is a sidecar running with this --store and --store-prefix?"
            " poolpilot control --scenario FILE --folder DIR --store URL starts one."
        )

    async def _answer(self, request: web.Request, made: Callable[[], Any]) -> web.Response:
        """Made in a thread; kept for whoever asks the same of the same tick."""
        newest = self._following.history.newest
        state = f"{newest.id if newest else ''} {self._following.trouble} {self._following.started}"
        key = f"{request.path_qs} {state}"
        if key not in self._answers:
            self._answers[key] = (await asyncio.to_thread(lambda: _json(made()))).encode()
            while len(self._answers) > _KEPT_ANSWERS:
                self._answers.popitem(last=False)
        return _body(self._answers[key])


def _frontier(rows: Sequence[AttainmentRow]) -> go.Figure:
    """One suite's, whose name stands above already."""
    figure = attainment_figure(rows, "")
    figure.layout.annotations = ()
    return figure.update_layout(height=_FRONTIER_PX)


def _drawn(figure: Any) -> Any:
    return None if figure is None else json.loads(figure.to_json())


def _json(document: Any) -> str:
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


def _json_answer(document: Any) -> web.Response:
    return _body(_json(document).encode())


def _body(body: bytes) -> web.Response:
    answer = web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})
    if len(body) > _GZIP_BYTES:
        answer.enable_compression()
    return answer


def _html(name: str) -> web.Response:
    if name == "wrong.html":
        text = (ASSETS / "login.html").read_text(encoding="utf-8").replace("hidden data-wrong", "data-wrong")
    else:
        text = (ASSETS / name).read_text(encoding="utf-8")
    return web.Response(text=text, content_type="text/html", headers={"Cache-Control": "no-store"})


@cache
def assets() -> dict[str, tuple[str, bytes, str]]:
    """Everything that the page loads, by name: type, content (gzip), tag. All of it comes from this server."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in ASSETS.iterdir() if path.suffix in _TYPES}
    texts["theme.css"] = theme_css()
    texts["palette.js"] = (
        f"export const DARK_OF = {json.dumps(DARK_OF)};\nexport const CONFIG = {json.dumps(CONFIG)};\n"
    )
    texts["plotly.min.js"] = get_plotlyjs()
    return {
        name: (
            _TYPES[Path(name).suffix],
            gzip.compress(text.encode(), 6, mtime=0),
            f'"{hashlib.sha256(text.encode()).hexdigest()[:20]}"',
        )
        for name, text in texts.items()
    }


def theme_css() -> str:
    """The figures' colours as the page's own."""

    def variables(theme: Theme, scheme: str) -> str:
        named = dict(zip((field.name for field in fields(theme)), astuple(theme), strict=True))
        colours = named.pop("colours")
        told = {**named, "accent": colours[0], "warn": colours[1], "good": colours[2]}
        return "".join(f"--{name}: {value}; " for name, value in told.items()) + f"color-scheme: {scheme};"

    light, dark = variables(LIGHT, "light"), variables(DARK, "dark")
    return (
        f":root {{ {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme]) {{ {dark} }} }}\n"
        f':root[data-theme="dark"] {{ {dark} }}\n'
    )
