"""`poolpilot control`: the sidecar."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from ..agents.checkpoint import CARD, CheckpointError, shipped_checkpoints
from ..agents.portfolio import HELD_PLAN, RULES, held_setting
from ..agents.registry import STATE, named_registry
from ..controller.actuators.envoy_config import Endpoint
from ..controller.actuators.envoy_process import EnvoyStartError, RunningEnvoy
from ..controller.assembly import steer
from ..controller.choosing import PolicyChoice
from ..controller.ladder import RUNGS
from ..controller.leadership import LEASE_S
from ..controller.settings import ControlSettings, StartError
from ..controller.xds.address import ServeError, XdsAddress, parse_address
from ..env.contract import Mode, SchemaError
from ..env.scenario import Scenario, load_scenario, shipped_scenarios
from ..telemetry.access import LOOPBACK, Access, is_loopback, read_token
from ..telemetry.store import Lease, StoreError
from ..telemetry.valkey import ValkeyError, valkey_url
from .bad_input import one_line_errors, refuse
from .envoy_bootstrap import asking_envoy, own_envoy
from .knobs import KnobsOf, knobs_option
from .printing import log_console
from .replayed import show_replay
from .worlds import of_the_same

TOKEN_VARIABLE: Final = "POOLPILOT_API_TOKEN"

_PEM = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--scenario", help="A shipped scenario's name, or a file. Wanted for all but --replay.")
@click.option(
    "--policy",
    default="plan-tracking",
    show_default=True,
    help=f"One of {', '.join(RULES)}, {HELD_PLAN} (a scenario of `poolpilot plan --write`), a checkpoint's name or folder, or registry:FOLDER: whichever version decides there, candidates on trial included (docs/finetuning.md).",
)
@click.option(
    "--setting",
    default="",
    help="Of a rule, comma-separated: replica counts of static-round-robin, or knobs in place of those shipped, as in headroom=1.2,hold_s=90 (`poolpilot policies RULE` lists them).",
)
@knobs_option
@click.option("--miss-price", type=click.FloatRange(min=0.01), help="What a checkpoint acts by instead of its card's.")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    default=Mode.ADVISE.value,
    show_default=True,
    help="advise: record what it would do, change nothing. canary: decide on a part (--canary). active: decide on all.",
)
@click.option(
    "--up-to",
    type=click.Choice([mode.value for mode in Mode]),
    help="As high as the mode may rise by itself, where its gates pass. Default: no higher than --mode.",
)
@click.option(
    "--canary",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of each class's requests that a canary decides on, instead of the scenario's `control.canary`.",
)
@click.option("--canary-pools", help="Pools, comma-separated, that a canary decides on, instead of a share.")
@click.option(
    "--step-back/--no-step-back",
    default=True,
    show_default=True,
    help="Whether a breach lowers the mode by one. Off only to compare policies, bad ones included.",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
    help="Working folder: Envoy's files, logs, the decision log, the bill. A sidecar that starts where another one died takes over; one that starts beside another one, with the same --store, stands by. Wanted for all but --replay.",
)
@click.option("--store", help="redis://host:port of Redis or Valkey. Default: an embedded Valkey.")
@click.option("--store-prefix", default="poolpilot", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of Envoy; default a free one.")
@click.option(
    "--api-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Of /healthz, /readyz, /metrics, /v1, /openapi.json; default a free one.",
)
@click.option(
    "--api-host",
    default=LOOPBACK,
    show_default=True,
    help="Address that the API listens at; any but loopback needs a token.",
)
@click.option(
    "--api-token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"File with the token that a change of mode, and any request from elsewhere, must show. Or in ${TOKEN_VARIABLE}.",
)
@click.option(
    "--lease-seconds",
    type=click.FloatRange(0.5, 60),
    default=LEASE_S,
    show_default=True,
    help="A leader that is gone this long is replaced by a sidecar that stands by.",
)
@click.option(
    "--speed-up",
    type=click.FloatRange(1, 100),
    default=1.0,
    show_default=True,
    help="Scenario seconds in a second; above 1 only with emulated replicas.",
)
@click.option(
    "--stream-interval",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Tokens that emulated replicas put into one event.",
)
@click.option("--seed", type=int, default=0, help="Draws the provisioning delays of local replicas.")
@click.option(
    "--world",
    help="Another scenario of the same pools and classes that is true of emulated replicas (their times, and how long they take to start), while policy and planner believe --scenario.",
)
@click.option("--leave-running", is_flag=True, help="At the end leave Envoy and replicas to the next sidecar.")
@click.option(
    "--xds",
    help="HOST:PORT at which Envoys on other machines ask for their configuration and send their log (gRPC). Off loopback only with mutual TLS.",
)
@click.option("--xds-peer", multiple=True, help="With --print-envoy: HOST:PORT of another sidecar to ask. Repeatable.")
@click.option("--xds-cert", type=_PEM, help="Mutual TLS for --xds: the sidecar's certificate, PEM.")
@click.option("--xds-key", type=_PEM, help="Its key, PEM.")
@click.option("--xds-ca", type=_PEM, help="The authority that Envoys' certificates are of, PEM.")
@click.option(
    "--print-envoy",
    is_flag=True,
    help="Print the configuration of an Envoy and stop: of one that asks at --xds, else of the one that this command starts.",
)
@click.option(
    "--replay",
    "replayed",
    metavar="LOG",
    help="Run nothing: decide again what a decision log holds (a file, or redis://host:port of a store with --store-prefix), and exit with 1 if anything comes out otherwise.",
)
@click.option("--json", "as_json", is_flag=True, help="With --replay: one JSON document on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@one_line_errors
def control(
    scenario: str | None,
    policy: str,
    setting: str,
    knobs: Path | None,
    miss_price: float | None,
    mode: str,
    up_to: str | None,
    canary: float | None,
    canary_pools: str | None,
    step_back: bool,
    folder: Path | None,
    store: str | None,
    store_prefix: str,
    port: int,
    api_port: int,
    api_host: str,
    api_token_file: Path | None,
    lease_seconds: float,
    speed_up: float,
    stream_interval: int,
    seed: int,
    world: str | None,
    leave_running: bool,
    xds: str | None,
    xds_peer: tuple[str, ...],
    xds_cert: Path | None,
    xds_key: Path | None,
    xds_ca: Path | None,
    print_envoy: bool,
    replayed: str | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Run the sidecar: every tick observe, decide, guard, act, record.

    Replicas are local processes (a pool's `command` in the scenario, or emulated), Envoy routes by class to them, and
    every decision is logged with its inputs. Stop it with Ctrl-C or SIGTERM: it drains and stops what it started. If
    it is killed, Envoy and the replicas go on with the last weights, and the next sidecar takes them over: one that is
    started later, or at once one that stands by.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    if replayed is not None:
        _replay(replayed, store_prefix, as_json)
        return
    if as_json:
        refuse("--json: only --replay prints a document")
    if scenario is None or folder is None:
        refuse(
            f"{'--folder' if scenario else '--scenario'} is missing: wanted --scenario and --folder, or --replay LOG"
        )
    loaded = _with_canary(load_scenario(scenario), canary, canary_pools)
    where = _xds_address(xds, xds_cert, xds_key, xds_ca)
    if print_envoy:
        click.echo(_bootstrap(loaded.name, folder, port, where, xds_peer), nl=False)
        return
    if _has_real(loaded) and speed_up > 1:
        refuse(f"--speed-up {speed_up:g}: only emulated replicas run faster than real time; {scenario} has real ones")
    if up_to and RUNGS.index(Mode(up_to)) < RUNGS.index(Mode(mode)):
        refuse(f"--up-to {up_to}: below --mode {mode}")
    own_setting = _setting(setting)
    if policy == HELD_PLAN and not own_setting:
        own_setting = held_setting(loaded)
    of_file = KnobsOf(knobs).of_file(policy) or {}
    if isinstance(own_setting, dict):
        own_setting = {**of_file, **own_setting}
    chosen = _chosen(policy, own_setting or of_file, miss_price)
    settings = ControlSettings(
        folder=folder,
        scenario_file=_file_of(world or scenario),
        store_url="",
        store_prefix=store_prefix,
        mode=Mode(mode),
        goal=Mode(up_to) if up_to else None,
        steps_back=step_back,
        speed_up=speed_up,
        port=port,
        api_port=api_port,
        stream_interval=stream_interval,
        seed=seed,
        world=None if world is None else _true(loaded, world),
        leave_running=leave_running,
        shared_store=store is not None,
        lease_s=lease_seconds,
        api_host=api_host,
        api_token=_token(api_token_file),
        xds=where,
    )
    Access(settings.api_token, is_loopback(api_host))  # refused before anything is started
    try:
        asyncio.run(_run(loaded, chosen, settings, store))
    except (StartError, EnvoyStartError, ServeError, StoreError, ValkeyError) as error:
        refuse(str(error))


def _replay(log: str, prefix: str, as_json: bool) -> None:
    """Exit with 1 if anything came out otherwise."""
    try:
        same = show_replay(log, prefix, as_json)
    except (StoreError, SchemaError) as error:
        refuse(str(error))
    if not same:
        raise SystemExit(1)


def _chosen(policy: str, setting: Sequence[float] | Mapping[str, float], miss_price: float | None) -> PolicyChoice:
    """Who decides; refused here if there is none such."""
    if isinstance(setting, Mapping):
        chosen = PolicyChoice(policy, knobs=dict(setting), miss_price=miss_price)
    else:
        chosen = PolicyChoice(policy, setting=tuple(setting), miss_price=miss_price)
    try:
        chosen.factory()
    except CheckpointError as error:
        registry = named_registry(policy)
        whole = Path(policy) / CARD if registry is None else registry[0] / STATE
        if not whole.exists() and policy not in shipped_checkpoints():
            raise
        log_console().print(f"{error}\nThe fallback decides until that is mended.", highlight=False)
    return chosen


def _token(file: Path | None) -> str | None:
    return os.environ.get(TOKEN_VARIABLE) if file is None else read_token(file)


async def _run(scenario: Scenario, chosen: PolicyChoice, settings: ControlSettings, store: str | None) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)

    def ready(envoy: RunningEnvoy, address: str) -> None:
        click.echo(f"steering {scenario.name}: requests to {envoy.url}, sidecar at {address}")

    def waiting(leader: Lease, address: str) -> None:
        click.echo(f"standing by for {scenario.name}: {leader.holder} leads, sidecar at {address}")

    settings.folder.mkdir(parents=True, exist_ok=True)
    async with valkey_url(store) as url:
        status = await steer(scenario, chosen, replace(settings, store_url=url), stopping, ready, waiting)
    log_console().print(f"{status.ticks} ticks, the fallback decided {status.fallback_ticks} of them")
    if status.last_move:
        log_console().print(f"mode {status.mode}; last change: {status.last_move}")


def _with_canary(scenario: Scenario, share: float | None, pools: str | None) -> Scenario:
    """The scenario with the canary that the command line names, if it names one."""
    if share is None and pools is None:
        return scenario
    if share is not None and pools is not None:
        refuse("--canary, --canary-pools: wanted one of them, not both")
    names = None if pools is None else tuple(name.strip() for name in pools.split(",") if name.strip())
    for name in names or ():
        if name not in scenario.pools:
            refuse(f"--canary-pools {pools}: unknown pool {name!r}; pools are {', '.join(scenario.pools)}")
    if names == ():
        refuse("--canary-pools: wanted at least one pool")
    canary = scenario.control.canary.model_copy(update={"share": share, "pools": names})
    return scenario.model_copy(update={"control": scenario.control.model_copy(update={"canary": canary})})


def _xds_address(
    text: str | None, certificate: Path | None, key: Path | None, authority: Path | None
) -> XdsAddress | None:
    if text is None:
        if certificate or key or authority:
            refuse("--xds-cert, --xds-key, --xds-ca: wanted with --xds only")
        return None
    try:
        return XdsAddress(*parse_address(text), certificate, key, authority)
    except ServeError as error:
        refuse(f"--xds {error}")


def _bootstrap(scenario: str, folder: Path, port: int, where: XdsAddress | None, peers: tuple[str, ...]) -> str:
    if where is None:
        return own_envoy(scenario, folder, port)
    try:
        others = tuple(Endpoint(*parse_address(peer)) for peer in peers)
    except ServeError as error:
        refuse(f"--xds-peer {error}")
    anywhere = where.host in ("0.0.0.0", "::")
    if anywhere and not others:
        refuse(
            f"--print-envoy: {where.host} is every address of this machine; say with --xds-peer which one Envoy is to ask"
        )
    asked = others if anywhere else (Endpoint(where.host, where.port), *others)
    return asking_envoy(scenario, asked, port, mutual_tls=where.certificate is not None)


def _setting(text: str) -> tuple[float, ...] | dict[str, float]:
    """Numbers, or numbers by name."""
    parts = [part for part in text.split(",") if part.strip()]
    named = [part.partition("=") for part in parts]
    try:
        if any(equals for _, equals, _ in named):
            return {name.strip(): float(value) for name, _, value in named}
        return tuple(float(part) for part in parts)
    except ValueError:
        refuse(f"--setting {text}: wanted numbers, or name=number, with commas between them")


def _has_real(scenario: Scenario) -> bool:
    """Whether any pool is not emulated."""
    return any(pool.command or pool.endpoints for pool in scenario.pools.values())


def _true(scenario: Scenario, world: str) -> Scenario:
    """What emulated replicas are like."""
    if _has_real(scenario):
        refuse(f"--world {world}: only of emulated replicas; {scenario.name} has real ones")
    return of_the_same(scenario, load_scenario(world))


def _file_of(scenario: str) -> Path:
    """The file behind a scenario's name."""
    return shipped_scenarios().get(scenario, Path(scenario)).resolve()
