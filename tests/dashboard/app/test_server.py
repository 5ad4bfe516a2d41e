"""The server: what it answers, to whom, and what it lets a page do."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from poolpilot.dashboard.app.following import Following
from poolpilot.dashboard.app.server import assets, dashboard
from poolpilot.dashboard.reading.logs import LogSource
from poolpilot.dashboard.reading.runs import RunReader
from poolpilot.dashboard.reading.sources import NoSource, Source
from poolpilot.dashboard.reading.timelines import FIGURES
from poolpilot.telemetry.access import Access, serving
from poolpilot.tests.dashboard.reading.test_runs import write_run
from poolpilot.tests.dashboard.recorded import NASTY, records, write_log

TOKEN = "0123456789abcdef"
DATA = ("/data/now", "/data/decisions", "/data/decision", "/data/savings", "/data/policies")


class Served:
    """A running dashboard, and somebody who asks."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self.session = url, session

    async def get(self, path: str, **asked: Any) -> aiohttp.ClientResponse:
        return await self.session.get(self.url + path, allow_redirects=False, **asked)

    async def json(self, path: str, **asked: Any) -> Any:
        answer = await self.get(path, **asked)
        assert answer.status == 200, await answer.text()
        return await answer.json()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as entered:
        yield entered


async def serve(
    stack: AsyncExitStack, source: Source, runs: tuple[Path, ...] = (), access: Access | None = None
) -> Served:
    session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)))
    following = Following(source, 3600.0, poll_s=0.02)
    url = await stack.enter_async_context(serving(dashboard(following, RunReader(runs), access), port=0))
    async with asyncio.timeout(30.0):
        while not following.started and not following.trouble:
            await asyncio.sleep(0.01)
    return Served(url, session)


@pytest.fixture
async def served(stack: AsyncExitStack, tmp_path: Path) -> Served:
    write_log(tmp_path / "decisions.jsonl", records(8, nasty=True))
    write_run(tmp_path / "runs" / "one", {"plan-tracking": 1.0, "steady-hand": 0.9})
    return await serve(stack, LogSource(tmp_path / "decisions.jsonl"), (tmp_path / "runs",))


async def test_every_answer_forbids_what_a_page_does_not_need(served: Served) -> None:
    for path in ("/", "/assets/app.js", "/data/now", "/figures/load", "/no-such-page", "/healthz"):
        answer = await served.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"


async def test_no_asset_names_another_host() -> None:
    from gzip import decompress

    for name, (_, packed, _) in assets().items():
        text = decompress(packed).decode()
        if name != "plotly.min.js":
            assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
            assert "https://" not in text


@pytest.mark.parametrize("path", DATA)
async def test_data_are_there(served: Served, path: str) -> None:
    told = await served.json(path)
    assert told["empty"] == ""


@pytest.mark.parametrize("key", [*FIGURES, "saved", "layers"])
async def test_figures_are_there_with_units_and_without_markup_from_data(served: Served, key: str) -> None:
    figure = await served.json(f"/figures/{key}")
    assert figure["data"]
    axes = [axis for name, axis in figure["layout"].items() if name.startswith("yaxis")]
    if key != "layers":
        assert all(axis["title"]["text"] for axis in axes)
    assert "<script" not in json.dumps(figure)
    assert "<img" not in json.dumps(figure)


async def test_names_are_handed_out_as_they_are(served: Served) -> None:
    told = await served.json("/data/now")
    assert told["classes"]["rows"][0][0]["text"] == NASTY


async def test_filters_narrow_tables_and_figures(served: Served) -> None:
    told = await served.json("/data/now", params=[("class", "batch"), ("pool", "l40s")])
    assert [row[0]["text"] for row in told["classes"]["rows"]] == ["batch"]
    assert [row[0]["text"] for row in told["pools"]["rows"]] == ["l40s"]
    load = await served.json("/figures/load", params={"class": "batch"})
    assert {trace["name"].split(",")[0] for trace in load["data"]} == {"batch"}
    unknown = await served.json("/data/now", params={"class": "no such class"})
    assert len(unknown["classes"]["rows"]) == 3


@pytest.mark.parametrize("span", ["x", "", "nan"])
async def test_an_odd_span_is_refused_or_the_least(served: Served, span: str) -> None:
    answer = await served.get("/data/now", params={"span": span})
    assert answer.status in (200, 400)
    if answer.status == 400:
        assert "wanted seconds" in await answer.text()


async def test_a_decision_is_found_by_its_id(served: Served) -> None:
    listed = await served.json("/data/decisions", params={"all": "1"})
    link = listed["list"]["rows"][3][0]["link"]
    told = await served.json("/data/decision", params={"id": link.split("/", 1)[1]})
    assert f"decisions/{told['id']}" == link
    gone = await served.json("/data/decision", params={"id": "999999"})
    assert "not among the 8 ticks" in gone["empty"]


async def test_runs_are_shown(served: Served) -> None:
    told = await served.json("/data/policies")
    assert told["run"] == "runs/one"
    assert [row[0]["text"] for row in told["table"]["rows"]] == ["plan-tracking", "steady-hand"]
    figure = await served.json("/figures/frontier", params={"run": "runs/one", "suite": "steady"})
    assert {trace["name"] for trace in figure["data"]} >= {"plan-tracking", "steady-hand"}


async def test_only_reading_is_possible(served: Served) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        for path in ("/", *DATA, "/figures/load", "/events"):
            answer = await served.session.request(method, served.url + path)
            assert answer.status == 405


@pytest.mark.parametrize(
    "path", ["/assets/../server.py", "/assets/%2e%2e/server.py", "/assets/index.html", "/figures/x"]
)
async def test_nothing_else_is_served(served: Served, path: str) -> None:
    assert (await served.get(path)).status == 404


async def test_a_name_that_leads_here_from_elsewhere_is_refused(served: Served) -> None:
    answer = await served.get("/data/now", headers={"Host": "attacker.example"})
    assert answer.status == 403
    assert (await served.get("/data/now", headers={"Host": "localhost:80"})).status == 200


async def test_news_come_with_the_tick(stack: AsyncExitStack, tmp_path: Path) -> None:
    log, kept = tmp_path / "decisions.jsonl", records(4)
    write_log(log, kept[:2])
    served = await serve(stack, LogSource(log))
    async with asyncio.timeout(30.0), served.session.get(served.url + "/events") as stream:
        seen = []
        while not seen or seen[-1]["number"] < 3:
            line = (await stream.content.readline()).decode()
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
                if seen[-1]["number"] == 1:
                    write_log(log, kept[2:])
    assert seen[-1]["scenario"] == "mixed-chat"
    assert seen[-1]["pools"] == list(kept[0].sitting.cluster.pool_names)


async def test_without_ticks_every_tab_says_what_to_do(stack: AsyncExitStack, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    served = await serve(stack, NoSource(), (tmp_path / "runs",))
    for path in ("/data/now", "/data/decisions", "/data/decision"):
        assert "--store" in (await served.json(path))["empty"]
    assert (await served.json("/data/savings"))["empty"] == "No ticks yet."
    assert "poolpilot evaluate --out" in (await served.json("/data/policies"))["empty"]
    assert await served.json("/figures/load") is None


async def test_a_source_that_is_gone_is_told_and_found_again(stack: AsyncExitStack, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    served = await serve(stack, LogSource(log))
    assert "No such file" in (await served.json("/data/now"))["empty"]
    assert (await served.get("/healthz")).status == 503
    write_log(log, records(2))
    async with asyncio.timeout(30.0):
        while (await served.json("/data/now"))["empty"]:
            await asyncio.sleep(0.1)
    assert (await served.get("/healthz")).status == 200


class TestWithAToken:
    """Where others can reach it."""

    @pytest.fixture
    async def served(self, stack: AsyncExitStack, tmp_path: Path) -> Served:
        write_log(tmp_path / "decisions.jsonl", records(2))
        return await serve(stack, LogSource(tmp_path / "decisions.jsonl"), access=Access(TOKEN, loopback=False))

    async def test_nothing_is_told_without_it(self, served: Served) -> None:
        for path in (*DATA, "/figures/load", "/events", "/assets/app.js"):
            answer = await served.get(path)
            assert answer.status == 401
            assert "mixed-chat" not in await answer.text()
        page = await served.get("/", headers={"Accept": "text/html"})
        assert (page.status, page.headers["Location"]) == (303, "/login")

    async def test_a_program_shows_it_in_a_header(self, served: Served) -> None:
        good, bad = ({"Authorization": f"Bearer {token}"} for token in (TOKEN, TOKEN[:-1]))
        assert (await served.get("/data/now", headers=good)).status == 200
        assert (await served.get("/data/now", headers=bad)).status == 401

    async def test_a_person_signs_in_once(self, served: Served) -> None:
        assert "Token" in await (await served.get("/login")).text()
        wrong = await served.session.post(served.url + "/login", data={"token": "wrong"}, allow_redirects=False)
        assert wrong.headers["Location"] == "/login?wrong=1"
        assert "Set-Cookie" not in wrong.headers
        right = await served.session.post(served.url + "/login", data={"token": f" {TOKEN}\n"}, allow_redirects=False)
        cookie = right.headers["Set-Cookie"]
        assert TOKEN not in cookie
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert (await served.get("/data/now")).status == 200

    async def test_any_name_may_lead_here(self, served: Served) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}", "Host": "dashboard.example"}
        assert (await served.get("/data/now", headers=headers)).status == 200
