"""The replicas of this machine: how they are started as the scenario says, and how long the first ones are waited for."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from ..env.contract import Action
from ..env.scenario import Scenario
from .actuators.child import ReplicaCommand, lacks_shutdown_timeout, plugin_environment
from .actuators.processes import LocalProcesses
from .actuators.sleep_mode import DEV_MODE, Sleeping
from .settings import ControlSettings, StartError

_LOG: Final = logging.getLogger(__name__)
WARM_UP_S: Final = 120.0
"""Wall-clock patience for the first replicas, where all are emulated."""
REAL_WARM_UP_S: Final = 1800.0
"""As `WARM_UP_S`, where some load a real model: hundreds of gigabytes may come over the network."""
TAKE_OVER_S: Final = 2.0
"""Wall-clock patience for replicas that were found running to answer their health check."""
PROCESS_START_S: Final = 10.0
"""Wall-clock seconds in which an emulated replica is up and serves, several at once and on cores that have much else to do."""


async def until_answered(processes: LocalProcesses, stopping: asyncio.Event) -> None:
    """Wait until the replicas that were taken over have answered, so that routing does not lose them; not for long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(TAKE_OVER_S):
            while any(pool.starting for pool in processes.states().values()) and not stopping.is_set():
                await asyncio.sleep(0.05)


async def until_ready(processes: LocalProcesses, scenario: Scenario, opening: Action, stopping: asyncio.Event) -> None:
    """Wait until the first replicas of our own serve, or `stopping` is set.

    Servers of the user's own are not waited for: whoever starts them may wait for what we want of them.
    """
    wanted = dict(zip(scenario.pool_names, opening.replicas, strict=True))

    def missing() -> bool:
        return any(pool.ready < wanted[name] for name, pool in processes.states().items())

    patience_s = REAL_WARM_UP_S if any(pool.command for pool in scenario.pools.values()) else WARM_UP_S
    try:
        async with asyncio.timeout(patience_s):
            while missing() and not stopping.is_set():
                await asyncio.sleep(0.1)
    except TimeoutError:
        failures = [pool.last_failure for pool in processes.states().values() if pool.last_failure]
        raise StartError(f"the first replicas did not serve within {patience_s:g} s: {'; '.join(failures)}") from None


def command_of(scenario: Scenario, name: str, settings: ControlSettings, cap_file: Path) -> ReplicaCommand:
    """How a replica of the pool is started: as the scenario says, or emulated."""
    own = scenario.pools[name].command
    if own is not None:
        if lacks_shutdown_timeout(own):
            _LOG.warning("pool %s: command has no --shutdown-timeout: what SIGTERM meets in vLLM is cut", name)
        dev_mode = {} if scenario.pools[name].sleep is None else DEV_MODE
        return ReplicaCommand(own, cap_file, {**plugin_environment(cap_file), **dev_mode})
    emulate = (sys.executable, "-m", "poolpilot", "emulate", "--scenario", str(settings.scenario_file), "--pool", name)
    where = ("--host", "{host}", "--port", "{port}", "--cap-file", "{cap_file}")
    # The drawn delay covers loading: what is left is to start the process.
    pace = ("--speed-up", f"{settings.speed_up:g}", "--stream-interval", str(settings.stream_interval))
    loaded = ("--load-seconds", "0")
    dev = () if scenario.pools[name].sleep is None else ("--dev-mode",)
    return ReplicaCommand((*emulate, *where, *pace, *loaded, *dev), cap_file)


def sleeps_of(scenario: Scenario) -> dict[str, Sleeping]:
    """The pools whose replicas sleep before they are stopped."""
    return {
        name: Sleeping(pool.sleep.level, pool.sleep.max, math.inf if pool.sleep.keep_s is None else pool.sleep.keep_s)
        for name, pool in scenario.pools.items()
        if pool.sleep is not None
    }


def drawn_delay_s(scenario: Scenario, pool: str, rng: np.random.Generator) -> float:
    """A cold start as the scenario has it."""
    cold = scenario.cold_start(pool)
    return cold.provision.at(rng.random()) + cold.load.at(rng.random())
