"""Lets poolpilot change how much a running vLLM engine batches. This file and the standard library are all it needs.

    POOLPILOT_CAPS=/run/poolpilot/caps/h100.json \
    vllm serve MODEL --scheduler-cls poolpilot_engine.CappedScheduler --middleware poolpilot_engine.CapMetrics

with the folder of this file on PYTHONPATH, or a copy of it in vLLM's own environment. `poolpilot control` sets both
variables for replicas that it starts itself.

- `CappedScheduler` is vLLM's scheduler (the asynchronous one where vLLM schedules asynchronously), which takes the most
  sequences and the most tokens of an iteration from a source while it runs: a file, or a URL of the sidecar.
- `CapMetrics` adds what is in force to vLLM's own `/metrics` page: vLLM itself tells neither.

The source holds `{"fencing_token": 7, "batch_cap": 32, "token_budget": 2048}`. Whatever cannot be used, or was written by
a leader of the past (an older fencing token), changes nothing and is counted; when the source is gone the last good
values stay. An engine never goes above its start values, and never so low that it would stop or die.

Environment:

    POOLPILOT_CAPS            path, or http(s) URL, of the source; required
    POOLPILOT_CAPS_TOKEN      bearer token sent to a URL
    POOLPILOT_SCHEDULER_BASE  a scheduler class of your own to cap, as module.Class, in place of vLLM's
    POOLPILOT_CAPS_STATUS     folder through which the engine tells CapMetrics; the temporary folder if not set

`python poolpilot_engine.py` says whether the vLLM beside it is one of those that this file knows.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any, Final

SOURCE_VARIABLE: Final = "POOLPILOT_CAPS"
TOKEN_VARIABLE: Final = "POOLPILOT_CAPS_TOKEN"
BASE_VARIABLE: Final = "POOLPILOT_SCHEDULER_BASE"
STATUS_VARIABLE: Final = "POOLPILOT_CAPS_STATUS"

OLDEST: Final = (0, 24)
NEWEST: Final = (0, 32)
"""vLLM versions whose scheduler was read, and the limits' names in it checked."""
ADMISSION_SINCE: Final = (0, 31)
"""From here on what is admitted (`max_num_active_reqs`) is apart from what may run (`max_num_running_reqs`)."""

_LOG: Final = logging.getLogger("vllm.poolpilot")  # below vLLM's own logger, whose handler shows it
_MAX_BYTES: Final = 4096
_FILE_POLL_S: Final = 0.1
_URL_POLL_S: Final = 1.0
_URL_TIMEOUT_S: Final = 2.0
_TELL_EVERY_S: Final = 1.0
"""The status is written at least this often, so that its age tells of an engine that hangs."""


class CapsError(ValueError):
    """What the source holds cannot be used; the message names the field."""


class UnknownEngine(RuntimeError):
    """This vLLM is none that the plugin knows, or it is set up in a way that cannot work."""


@dataclass(frozen=True)
class Caps:
    """What an engine may do."""

    fencing_token: int
    """Of the leader that wrote it; grows with every change of leader."""
    batch_cap: int
    """Sequences that run at once."""
    token_budget: int
    """Tokens in one iteration."""


def parse_caps(text: bytes) -> Caps:
    """The caps that a source holds.

    Raises:
        CapsError: not JSON, not exactly these fields, or numbers that would stop an engine.
    """
    names = list(Caps.__dataclass_fields__)
    if len(text) > _MAX_BYTES:
        raise CapsError(f"more than {_MAX_BYTES} bytes")
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CapsError(f"not JSON: {error}") from None
    if not isinstance(document, dict) or set(document) != set(names):
        raise CapsError(f"wanted exactly the fields {', '.join(names)}")
    for name, least in (("fencing_token", 0), ("batch_cap", 1), ("token_budget", 1)):
        value = document[name]
        if type(value) is not int or value < least:
            raise CapsError(f"{name}: {value!r}, wanted a whole number of at least {least}")
    return Caps(**document)


@dataclass(frozen=True)
class Engine:
    """What an engine is and holds, as far as its limits depend on it."""

    start_cap: int
    """Most sequences, as it was started."""
    start_budget: int
    """Most tokens of an iteration, as it was started."""
    held: int
    """Sequences that have a place in the running batch now."""
    tokens_each: int
    """Tokens that a decoding sequence needs at a step: one, and what is speculated."""
    splits_prompts: bool
    """Whether every prompt may be computed in parts. If not, a budget below a prompt's length would hold it for ever."""
    admits_apart: bool
    """Whether the cap only stops admission. If not, a cap below `held` kills the engine."""


def limits(caps: Caps, engine: Engine) -> tuple[int, int]:
    """Batch cap and token budget to set now: as wanted, within what keeps the engine alive. Pure."""
    cap = min(caps.batch_cap if engine.admits_apart else max(caps.batch_cap, engine.held), engine.start_cap)
    # Less than a token for each sequence that may run, and those that run take it all: nothing new would be admitted.
    budget = max(caps.token_budget, max(cap, engine.held) * engine.tokens_each)
    if not engine.splits_prompts:
        budget = engine.start_budget
    return cap, min(budget, engine.start_budget)


class Source:
    """A file or URL of caps, read again and again. `caps` is the last good one; None before the first."""

    def __init__(self, where: str, token: str = "") -> None:
        """Nothing is read before `poll`.

        Args:
            where: a path, or an address that begins with http:// or https://.
            token: bearer token sent to an address.
        """
        self.where = where
        self.caps: Caps | None = None
        self.errors = 0
        """Contents that could not be used, and reads of an address that failed."""
        self.read_at_s: float | None = None
        """Monotonic time when the source last was there and good."""
        self.is_url = where.startswith(("http://", "https://"))
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        # No proxy of the environment: it is meant for the world outside, and the sidecar stands beside.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
        self._seen: tuple[int, int, int] | None = None
        self._good = False
        self._said = ""

    def poll(self) -> None:
        """Read it, if it may have changed. Whatever is wrong with it is counted, logged once, and changes nothing."""
        try:
            text = self._of_url() if self.is_url else self._of_file()
            if text is not None:
                self._good = False
                self._take(parse_caps(text))
                self._good, self._said = True, ""
            if self._good:
                self.read_at_s = time.monotonic()
        except FileNotFoundError:
            self._seen = None  # not there yet, or taken away: no error, but its age grows
        except (CapsError, OSError, HTTPException, ValueError) as error:
            self.errors += 1
            self._say(f"{self.where}: {error}; {'keeping ' + str(self.caps) if self.caps else 'start values stay'}")

    def _of_file(self) -> bytes | None:
        """What the file holds; None if that was read before."""
        status = os.stat(self.where)
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if seen == self._seen:
            return None
        # A named pipe would block for ever.
        descriptor = os.open(self.where, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            text: bytes | None = file.read(_MAX_BYTES + 1)
        self._seen = seen
        return text or b""

    def _of_url(self) -> bytes:
        asked = urllib.request.Request(self.where, headers=self._headers)
        with self._opener.open(asked, timeout=_URL_TIMEOUT_S) as answer:
            body: bytes = answer.read(_MAX_BYTES + 1)
            return body

    def _take(self, caps: Caps) -> None:
        if self.caps is not None and caps.fencing_token < self.caps.fencing_token:
            raise CapsError(f"fencing_token {caps.fencing_token} is older than {self.caps.fencing_token}")
        self.caps = caps

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            _LOG.warning("%s", what)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The bearer token is meant for one address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


@dataclass(frozen=True)
class Status:
    """What an engine process tells about its caps."""

    engine: int
    """Data-parallel rank."""
    pid: int
    parent: int
    """The process that started it: vLLM's API server, or what started both."""
    batch_cap: int
    token_budget: int
    fencing_token: int
    age_s: float | None
    """Since the source was last read and good, when this was written; None if it never was."""
    errors: int
    at_s: float
    """Monotonic time of writing; one clock for all processes of a machine."""


class Watch:
    """Reads the source in a thread of its own, and tells what holds, whether the engine has work or not."""

    def __init__(self, source: Source, in_force: Callable[[], tuple[int, int]], engine: int) -> None:
        """`in_force` gives the limits as they are now, and is called in the thread."""
        self._source, self._in_force, self._engine = source, in_force, engine
        self._path = status_folder() / f"{os.getppid()}-{os.getpid()}-{engine}.json"
        self._stopped = threading.Event()
        self._told: tuple[object, ...] = ()
        self._told_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name="poolpilot-caps", daemon=True)

    def start(self) -> None:
        """Read once, so that the first step runs under caps already; then go on in the thread."""
        self._source.poll()
        self._tell()
        self._thread.start()

    def stop(self) -> None:
        """Take the status away."""
        self._stopped.set()
        self._thread.join(_URL_TIMEOUT_S + 1.0)
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        pause_s = _URL_POLL_S if self._source.is_url else _FILE_POLL_S
        while not self._stopped.wait(pause_s):
            self._source.poll()
            self._tell()

    def _tell(self) -> None:
        now_s = time.monotonic()
        caps, read_at_s = self._source.caps, self._source.read_at_s
        cap, budget = self._in_force()
        news = (cap, budget, caps, self._source.errors)
        if news == self._told and now_s - self._told_at_s < _TELL_EVERY_S:
            return
        status = Status(
            engine=self._engine,
            pid=os.getpid(),
            parent=os.getppid(),
            batch_cap=cap,
            token_budget=budget,
            fencing_token=caps.fencing_token if caps else 0,
            age_s=None if read_at_s is None else now_s - read_at_s,
            errors=self._source.errors,
            at_s=now_s,
        )
        part = self._path.with_suffix(".part")
        with suppress(OSError):  # a full disk takes the metric away, not the caps
            part.write_text(json.dumps(asdict(status)), encoding="utf-8")
            part.replace(self._path)
            self._told, self._told_at_s = news, now_s


def status_folder() -> Path:
    """Where engines tell what holds; made, for this user only, when it is not there."""
    folder = Path(os.environ.get(STATUS_VARIABLE) or Path(tempfile.gettempdir()) / f"poolpilot-caps-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UnknownEngine(f"{folder}: belongs to another user; set {STATUS_VARIABLE} to a folder of your own")
    return folder


def statuses(pid: int, parent: int) -> list[Status]:
    """Of the engines that the process `pid` started; if there is none, of those that its parent started."""
    found = [status for status in _all_statuses() if _runs(status.pid)]
    own = [status for status in found if status.parent == pid]
    return sorted(own or [status for status in found if status.parent == parent], key=lambda s: s.engine)


def _all_statuses() -> Iterator[Status]:
    for path in status_folder().glob("*.json"):
        with suppress(OSError, ValueError, TypeError):
            yield Status(**json.loads(path.read_text(encoding="utf-8")))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


_FAMILIES: Final[tuple[tuple[str, str, str, Callable[[Status, float], float | None]], ...]] = (
    ("poolpilot_batch_cap", "gauge", "Most sequences that the engine may run at once now.", lambda s, _: s.batch_cap),
    (
        "poolpilot_token_budget",
        "gauge",
        "Most tokens that the engine may process in one iteration now.",
        lambda s, _: s.token_budget,
    ),
    (
        "poolpilot_caps_fencing_token",
        "gauge",
        "Fencing token of the caps in force; 0 before the first.",
        lambda s, _: s.fencing_token,
    ),
    (
        "poolpilot_caps_age_seconds",
        "gauge",
        "Since the source of the caps was last there and good.",
        lambda s, now_s: None if s.age_s is None else s.age_s + now_s - s.at_s,
    ),
    ("poolpilot_caps_errors_total", "counter", "Caps that could not be used or read.", lambda s, _: s.errors),
)


def page(told: list[Status], now_s: float) -> bytes:
    """The lines of a metrics page, Prometheus text format; none without engines."""
    lines: list[str] = []
    for name, kind, doc, of in _FAMILIES if told else ():
        lines += [f"# HELP {name} {doc}", f"# TYPE {name} {kind}"]
        values = ((status.engine, of(status, now_s)) for status in told)
        lines += [f'{name}{{engine="{engine}"}} {float(value)!r}' for engine, value in values if value is not None]
    return "".join(line + "\n" for line in lines).encode()


_Message = MutableMapping[str, Any]
_App = Callable[[_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]]


class CapMetrics:
    """ASGI middleware: `/metrics` ends in what `page` says; every other request passes untouched."""

    def __init__(self, app: _App) -> None:
        """Stand before `app`."""
        self._app = app

    def lines(self) -> bytes:
        """What is added to the page."""
        return page(statuses(os.getpid(), os.getppid()), time.monotonic())

    async def __call__(
        self, scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
    ) -> None:
        """Serve one request."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or scope.get("method") != "GET" or path.rstrip("/") != "/metrics":
            await self._app(scope, receive, send)
            return
        # Only the plain text format can be added to: no compression, no OpenMetrics with its end mark.
        headers = [(k, v) for k, v in scope["headers"] if k.lower() not in (b"accept", b"accept-encoding")]
        head: _Message = {}
        body = bytearray()

        async def held(message: _Message) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                if head["status"] == 200:
                    with suppress(OSError, UnknownEngine):
                        body.extend(self.lines())
                kept = [(k, v) for k, v in head["headers"] if k.lower() != b"content-length"]
                await send({**head, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
                await send({"type": "http.response.body", "body": bytes(body)})

        await self._app({**scope, "headers": headers}, receive, held)


def known_version(version: str) -> tuple[int, int]:
    """Major and minor number of a vLLM version that this file knows.

    Raises:
        UnknownEngine: it does not.
    """
    found = re.match(r"(\d+)\.(\d+)(?=[.\-+a-z]|$)", version)
    number = (int(found[1]), int(found[2])) if found else None
    if number is None or not OLDEST <= number <= NEWEST:
        raise UnknownEngine(
            f"vLLM {version}: its scheduler is not known to {Path(__file__).name}; known are "
            f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}. Use one of them or a newer poolpilot, or start vLLM"
            " without --scheduler-cls: poolpilot then caps what the proxy lets through (docs/engines.md)"
        )
    return number


def check_scheduler(scheduler: object, version: tuple[int, int]) -> str:
    """The attribute by which a scheduler made by vLLM is capped.

    Raises:
        UnknownEngine: it lacks what is to be set or read.
    """
    cap = "max_num_active_reqs" if version >= ADMISSION_SINCE else "max_num_running_reqs"
    for name, kind in ((cap, int), ("max_num_scheduled_tokens", int), ("running", list), ("scheduler_config", object)):
        value = getattr(scheduler, name, None)
        if not isinstance(value, kind) or value is None:
            raise UnknownEngine(
                f"{type(scheduler).__mro__[1].__name__}.{name}: {value!r}, wanted {kind.__name__}; this scheduler is not"
                f" that of vLLM {version[0]}.{version[1]}, start vLLM without --scheduler-cls"
            )
    return cap


def splits_prompts(scheduler: object) -> bool:
    """Whether the engine may compute every prompt in parts, whatever is in it."""
    config = getattr(scheduler, "scheduler_config", None)
    return bool(
        getattr(config, "enable_chunked_prefill", False)
        and not getattr(config, "disable_chunked_mm_input", False)
        # Those compute whole blocks: a budget below a block, or what is left of it, would hold a prompt for ever.
        and not getattr(scheduler, "need_mamba_block_aligned_split", False)
        and not getattr(scheduler, "is_encoder_decoder", False)
    )


def capped(base: type[Any], version: tuple[int, int], source: Source) -> type[Any]:
    """`base`, a scheduler of vLLM or a class below it, with limits that follow `source`."""

    class Capped(base):  # type: ignore[misc]
        """Sets its limits before each step, in the thread that schedules."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._cap_name = check_scheduler(self, version)
            self._start_limits = (int(getattr(self, self._cap_name)), int(self.max_num_scheduled_tokens))
            self._splits_prompts = splits_prompts(self)
            self._tokens_each = 1 + int(getattr(self, "num_spec_tokens", 0) or 0)
            if not self._splits_prompts:
                _LOG.warning("prompts are not computed in parts here: the token budget stays %d", self._start_limits[1])
            parallel = getattr(getattr(self, "vllm_config", None), "parallel_config", None)
            rank = getattr(parallel, "data_parallel_index", None) or getattr(parallel, "data_parallel_rank", 0)
            self._watch = Watch(source, self._limits, int(rank or 0))
            self._watch.start()
            _LOG.info("caps come from %s; at start %d sequences, %d tokens", source.where, *self._start_limits)

        def schedule(self, *args: Any, **kwargs: Any) -> Any:
            cap, budget = self._limits()
            setattr(self, self._cap_name, cap)
            self.max_num_scheduled_tokens = budget
            return super().schedule(*args, **kwargs)

        def shutdown(self, *args: Any, **kwargs: Any) -> Any:
            self._watch.stop()
            return super().shutdown(*args, **kwargs)

        def _limits(self) -> tuple[int, int]:
            caps = source.caps
            if caps is None:
                return self._start_limits
            held = len(self.running) + int(getattr(self, "num_waiting_for_streaming_input", 0))
            admits_apart = self._cap_name == "max_num_active_reqs"
            return limits(
                caps, Engine(*self._start_limits, held, self._tokens_each, self._splits_prompts, admits_apart)
            )

    Capped.__name__ = Capped.__qualname__ = f"Capped{base.__name__}"
    return Capped


class CappedScheduler:
    """For `--scheduler-cls`: makes vLLM's scheduler, capped. Which of vLLM's classes depends on how it is set up."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A capped scheduler, made of vLLM's own arguments.

        Raises:
            UnknownEngine: no source is named, or this vLLM is none of those known.
        """
        where = os.environ.get(SOURCE_VARIABLE, "")
        if not where:
            raise UnknownEngine(f"{SOURCE_VARIABLE} is not set: wanted the path or the URL of this pool's caps")
        version = known_version(str(import_module("vllm").__version__))
        vllm_config = kwargs["vllm_config"] if "vllm_config" in kwargs else args[0]
        source = Source(where, os.environ.get(TOKEN_VARIABLE, ""))
        return capped(base_class(bool(vllm_config.scheduler_config.async_scheduling)), version, source)(*args, **kwargs)


def base_class(asynchronous: bool) -> type[Any]:
    """The class to cap: the one that is named in the environment, or vLLM's own for this way of scheduling."""
    own = (
        "vllm.v1.core.sched.async_scheduler.AsyncScheduler"
        if asynchronous
        else "vllm.v1.core.sched.scheduler.Scheduler"
    )
    name = os.environ.get(BASE_VARIABLE) or own
    module, _, attribute = name.rpartition(".")
    found = getattr(import_module(module), attribute, None) if module else None
    if not isinstance(found, type):
        raise UnknownEngine(f"{BASE_VARIABLE}={name}: wanted module.Class of a scheduler")
    return found


def main() -> int:
    """Say whether the vLLM that this Python has is known; 0 if it is."""
    try:
        version = str(import_module("vllm").__version__)
        known_version(version)
    except ImportError as error:
        print(f"no vLLM in {sys.executable}: {error}", file=sys.stderr)
        return 2
    except UnknownEngine as error:
        print(error, file=sys.stderr)
        return 2
    print(f"vLLM {version}: known; --scheduler-cls poolpilot_engine.CappedScheduler")
    return 0


if __name__ == "__main__":
    sys.exit(main())
