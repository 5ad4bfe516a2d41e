"""Steers Envoy by files: writes what changed, in the order that drops no request, and reads back what Envoy runs.

Envoy watches one folder: `cds.json` (clusters), `eds-<pool>.json` (ready replicas), `rds.json` (routes). Each is
replaced by a rename, so Envoy never sees half of one, and keeps its last good ones when the writer dies.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from ..fencing import UNFENCED, Fence
from .envoy_bootstrap import STAT_PREFIX
from .envoy_config import ROUTES_NAME, Json, RoutingTable
from .envoy_documents import CDS_FILE, RDS_FILE, all_new, endpoints_file, hosts, phases, render, watched

_POLL_S: Final = 0.02
_FIRST_CHECK_S: Final = 1.0
_STATS: Final = r"(version_text|update_rejected|update_failure|warming_clusters|membership_healthy|membership_total)$"


class EnvoyRejected(RuntimeError):
    """Envoy refused a configuration and goes on with the one before."""

    def __init__(self, message: str, *, endpoints_follow: bool = False) -> None:
        """`endpoints_follow`: it has the new replicas all the same, and none that left."""
        super().__init__(message)
        self.endpoints_follow = endpoints_follow


class EnvoyUnreachable(RuntimeError):
    """Envoy's admin interface did not answer, or Envoy took up neither the new files nor an error in time."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What `EnvoyFiles.apply` changed."""

    written: tuple[str, ...]
    """Files written, in order."""
    versions: Mapping[str, str]
    """The version that Envoy reports of each file."""


class EnvoyFiles:
    """The routing actuator: one folder of files, one Envoy that watches it."""

    def __init__(
        self,
        folder: Path,
        admin_url: str,
        *,
        log: Path | None = None,
        patience_s: float = 5.0,
        fence: Fence = UNFENCED,
    ) -> None:
        """Steer by `folder` the Envoy whose admin interface is at `admin_url`.

        Args:
            folder: what the Envoy was started to watch.
            admin_url: such as `http://127.0.0.1:9901`.
            log: Envoy's own log: the only place where it says why it refused something.
            patience_s: how long Envoy may take to follow.
            fence: keeps leaders of the past from writing.
        """
        self._fence = fence
        self.folder, self.admin_url, self.log, self.patience_s = folder, admin_url, log, patience_s

    async def apply(self, table: RoutingTable) -> Applied | None:
        """Make Envoy run `table`; None if it did already.

        New replicas and clusters come before the routes that use them, old clusters go after; open streams stay.

        Raises:
            EnvoyRejected: naming file and reason; clusters and routes are as before. Replicas come and go all the same,
                unless it is them that were refused.
            Fenced: a newer leader took over.
            EnvoyUnreachable: Envoy is down (nothing was written) or does not follow (the files stay, it may yet).
        """
        wanted = render(table, _watched_in(self.folder))
        before = {name: _read(self.folder / name) for name in wanted}
        supply, routes, trimmed = phases(before, wanted)
        written: list[str] = []
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self.patience_s)) as admin:
            if before == wanted and not _behind(await self._stats(admin), wanted):
                return None
            await self._bring(admin, supply, before, written)
            untried = [name for name in written if all_new(before[name], wanted[name]) and hosts(wanted[name])]
            await self._until_checked(admin, untried)
            try:
                await self._bring(admin, routes, before, written)
            except EnvoyRejected as refused:
                known = {name: trimmed[name] for name in _endpoints_of(trimmed) if before[name] is not None}
                try:
                    await self._bring(admin, known, before, written)
                except EnvoyUnreachable as late:
                    raise EnvoyRejected(f"{refused}; and {late}") from None
                raise EnvoyRejected(str(refused), endpoints_follow=True) from None
            await self._bring(admin, trimmed, before, written)
        for gone in set(_endpoint_files(self.folder)) - set(wanted):
            self._fence.remove(self.folder / gone)
        versions = {name: str(document["version_info"]) for name, document in wanted.items()}
        return Applied(tuple(written), versions) if written else None

    async def _bring(
        self,
        admin: aiohttp.ClientSession,
        files: Mapping[str, Json],
        before: Mapping[str, Json | None],
        written: list[str],
    ) -> None:
        """Write what differs, and wait until Envoy runs all of `files`."""
        log_end = self.log.stat().st_size if self.log and self.log.exists() else 0
        earlier = await self._stats(admin)
        changed = [name for name, document in files.items() if _read(self.folder / name) != document]
        for name in changed:
            replace(self.folder / name, files[name], self._fence)
        written += changed
        deadline = time.monotonic() + self.patience_s
        while waiting := _behind(stats := await self._stats(admin), files):
            if refused := next((name for name in waiting if _refusals(stats, name) > _refusals(earlier, name)), None):
                # Replicas that Envoy took stay: those from before may be gone by now.
                taken = {name for name in _endpoints_of(written) if name not in waiting and before[name] is not None}
                self._restore([name for name in written if name not in taken], before)
                raise EnvoyRejected(
                    f"{self.folder / refused}: Envoy refused version {files[refused]['version_info']} and keeps "
                    f"{stats.get(_stat(refused, 'version_text'), 'none')}: {await self._reason(log_end)}"
                )
            if time.monotonic() > deadline:
                raise EnvoyUnreachable(
                    f"Envoy at {self.admin_url} did not take up {', '.join(waiting)} in {self.folder} within "
                    f"{self.patience_s} s; does it watch this folder, and do new replicas answer /health?"
                )
            await asyncio.sleep(_POLL_S)

    async def _until_checked(self, admin: aiohttp.ClientSession, pools: list[str]) -> None:
        """Give new replicas a moment to pass their first health check; one that does not is not worth waiting for."""
        deadline = time.monotonic() + _FIRST_CHECK_S
        while pools and time.monotonic() < deadline:
            stats = await self._stats(admin)
            pools = [
                p for p in pools if stats.get(_stat(p, "membership_healthy")) != stats[_stat(p, "membership_total")]
            ]
            await asyncio.sleep(_POLL_S if pools else 0)

    async def _stats(self, admin: aiohttp.ClientSession) -> dict[str, str]:
        """The statistics that tell what Envoy runs."""
        try:
            async with admin.get(f"{self.admin_url}/stats", params={"filter": _STATS}) as answer:
                answer.raise_for_status()
                lines = (await answer.text()).splitlines()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EnvoyUnreachable(f"Envoy's admin interface at {self.admin_url} does not answer: {error!r}") from error
        return {name: value.strip('"') for name, _, value in (line.partition(": ") for line in lines)}

    def _restore(self, written: list[str], before: Mapping[str, Json | None]) -> None:
        """Put back what was there, so that an Envoy that starts anew finds what worked."""
        for name in reversed(written):
            last_good = before[name]
            if last_good is None:
                self._fence.remove(self.folder / name)
            else:
                replace(self.folder / name, last_good, self._fence)

    async def _reason(self, log_from: int) -> str:
        """What Envoy's log says since `log_from`, waiting a moment for it to be flushed."""
        if self.log is None:
            return "the reason stands in Envoy's log"
        for _ in range(50):
            with self.log.open(errors="replace") as log:
                log.seek(log_from)
                if reason := reason_in(log.read()):
                    return reason
            await asyncio.sleep(_POLL_S)
        return f"no reason found in {self.log}"


def reason_in(log: str) -> str | None:
    """Why Envoy refused something last, by its log. It prints the whole document too, before the reason or after it."""
    entries = re.findall(
        r"config update (?:rejected|failure): (.*?)(?=^\[\d{4}-\d\d-\d\d |\Z)", log, re.MULTILINE | re.DOTALL
    )
    if not entries:
        return None
    reason = str(entries[-1]).rpartition("\n: ")[2]
    return reason.partition(": {")[0].strip().partition("\n")[0]


def write(folder: Path, table: RoutingTable, fence: Fence = UNFENCED) -> None:
    """Write all files for an Envoy that is yet to start; `EnvoyFiles.apply` is for one that runs."""
    for name, document in render(table, _watched_in(folder)).items():
        replace(folder / name, document, fence)


def replace(path: Path, document: Json, fence: Fence = UNFENCED) -> None:
    """Put a JSON file in place by a rename, so that no reader sees half of it; Fenced if a newer leader took over."""
    fence.write(path, json.dumps(document).encode())


def _read(path: Path) -> Json | None:
    """The document at `path`; None if there is none or it is no JSON, which both mean: write it."""
    try:
        document: Json = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return document


def _watched_in(folder: Path) -> Callable[[str], Json]:
    return lambda name: watched(str(folder), name)


def _endpoint_files(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(endpoints_file("*"))]


def _endpoints_of(names: Iterable[str]) -> list[str]:
    return [name for name in names if name not in (CDS_FILE, RDS_FILE)]


def _stat(name: str, figure: str) -> str:
    """The name of Envoy's statistic on one of our files."""
    pool = name.removeprefix("eds-").removesuffix(".json")
    owner = {CDS_FILE: "cluster_manager.cds", RDS_FILE: f"http.{STAT_PREFIX}.rds.{ROUTES_NAME}"}.get(
        name, f"cluster.{pool}"
    )
    return f"{owner}.{figure}"


def _refusals(stats: Mapping[str, str], name: str) -> int:
    return sum(int(stats.get(_stat(name, figure), 0)) for figure in ("update_rejected", "update_failure"))


def _behind(stats: Mapping[str, str], files: Mapping[str, Json]) -> list[str]:
    """The files that Envoy does not run yet; a cluster whose replicas were not checked yet does not serve."""
    late = [name for name, doc in files.items() if stats.get(_stat(name, "version_text")) != doc["version_info"]]
    if not late and CDS_FILE in files and stats.get("cluster_manager.warming_clusters") != "0":
        return [CDS_FILE]
    return late
