"""Which local replicas run, kept in a file: they outlive the sidecar, and the next sidecar finds them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..fencing import UNFENCED, Fence
from .envoy_config import Endpoint


class RosterError(ValueError):
    """The file is no roster; the message names file and field."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One running replica."""

    name: str
    pool: str
    pid: int
    started_ticks: int
    """When the process began, in the kernel's ticks since boot: with the pid it names a process for good."""
    host: str
    port: int
    stopping: bool
    """It was told to stop and refuses requests."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return Endpoint(self.host, self.port)

    @property
    def runs(self) -> bool:
        """Whether that very process is still there."""
        return started_ticks(self.pid) == self.started_ticks


def started_ticks(pid: int) -> int | None:
    """When a process began (ticks since boot); None if it is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    after_name = stat[stat.rindex(")") + 2 :].split()  # the name may hold spaces and brackets; proc(5)
    return None if after_name[0] in "ZX" else int(after_name[19])


def write_roster(path: Path, listed: Sequence[Listed], fence: Fence = UNFENCED) -> None:
    """Replace the file in one step; Fenced if a newer leader took over."""
    fence.write(path, (json.dumps([asdict(one) for one in listed], indent=1) + "\n").encode())


def read_roster(path: Path) -> tuple[Listed, ...]:
    """What the file lists, dead or alive; nothing if there is no file.

    Raises:
        RosterError: naming the file and the first entry that cannot be.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (ValueError, RecursionError) as error:
        raise RosterError(f"{path}: not JSON: {error}; look for replicas that still run, then remove it") from None
    if not isinstance(document, list):
        raise RosterError(f"{path}: wanted a list of replicas")
    return tuple(_listed(entry, f"{path}: [{i}]") for i, entry in enumerate(document))


def _listed(entry: Any, where: str) -> Listed:
    kinds = {"str": str, "int": int, "bool": bool}
    wanted = {f.name: kinds[str(f.type)] for f in fields(Listed)}
    if not isinstance(entry, dict) or set(entry) != set(wanted):
        raise RosterError(f"{where}: wanted exactly the fields {', '.join(wanted)}")
    for name, kind in wanted.items():
        if type(entry[name]) is not kind:
            raise RosterError(f"{where}.{name}: {entry[name]!r}, wanted {kind.__name__}")
    if entry["pid"] < 1 or not 1 <= entry["port"] <= 65535:
        raise RosterError(f"{where}: pid {entry['pid']} and port {entry['port']}, wanted a process and a TCP port")
    return Listed(**entry)
