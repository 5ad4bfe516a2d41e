"""`poolpilot emulate`: one emulated vLLM replica."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .bad_input import one_line_errors, refuse

if TYPE_CHECKING:
    from ..env.perf.roofline import Stage

_PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8", "int4")
SLOWNESS_VARIABLE: Final = "POOLPILOT_SLOWNESS"
_FLAGS = (
    *("max_num_seqs", "max_num_batched_tokens", "max_model_len", "gpu_memory_utilization"),
    *("scheduling", "prefix_caching"),
)
_HARDWARE = ("gpu", "model", "precision", "tensor_parallel", "pipeline_parallel", "stage_layers", "stages")


def _layers(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}, wanted whole numbers with commas between, such as 30,26,24") from None


_STAGE = re.compile(r"(?:([1-8])x)?([A-Za-z0-9-]+):([0-9]{1,3})(?:@([A-Za-z0-9-]+))?")


def _stages(context: click.Context, option: click.Parameter, value: str | None) -> tuple[Stage, ...] | None:
    if value is None:
        return None
    from ..env.catalog.gpus import gpu
    from ..env.catalog.links import link
    from ..env.catalog.names import CatalogError
    from ..env.perf.roofline import Stage

    stages = []
    for part in value.split(","):
        found = _STAGE.fullmatch(part.strip())
        if found is None:
            raise click.BadParameter(f"{part!r}, wanted GPU:LAYERS, such as L4-24GB:7, 2xL4-24GB:7 or L4-24GB:7@PCIe4")
        degree, name, layers, way = found.groups()
        try:
            stages.append(Stage(gpu(name), int(layers), int(degree or 1), None if way is None else link(way)))
        except CatalogError as error:
            raise click.BadParameter(str(error)) from None
    return tuple(stages)


@click.command()
@click.option("--gpu", help="GPU type, such as L40S-48GB or H100-SXM-80GB.")
@click.option("--model", help="Model, such as llama-2-13b. A wrong name lists the closest ones.")
@click.option("--precision", type=click.Choice(_PRECISIONS), help="Of the weights.  [default: bf16]")
@click.option("--tensor-parallel", type=click.IntRange(1, 8), help="GPUs of a stage.  [default: 1]")
@click.option("--pipeline-parallel", type=click.IntRange(1, 16), help="Stages of the replica.  [default: 1]")
@click.option("--stage-layers", callback=_layers, help="Layers of each stage, such as 30,26,24.  [default: even]")
@click.option(
    "--stages",
    callback=_stages,
    help="Pipeline over GPUs that differ, in place of the four above but the model and the precision: GPU:LAYERS of each"
    " stage, 2xGPU for tensor parallel, @LINK to the next: A100-SXM-40GB:33@Ethernet-100G,2xL4-24GB:7.",
)
@click.option("--scenario", help="Take all of the above and below from a scenario: a shipped one's name, or a file.")
@click.option("--pool", help="With --scenario: which of its pools.")
@click.option("--max-num-seqs", type=click.IntRange(1, 4096), help="Most sequences at once.  [default: 128]")
@click.option(
    "--max-num-batched-tokens", type=click.IntRange(16, 65536), help="Most tokens an iteration.  [default: 2048]"
)
@click.option("--max-model-len", type=click.IntRange(min=16), help="Most tokens of a request.  [default: 8192]")
@click.option(
    "--gpu-memory-utilization",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the GPU's memory for weights and KV cache.  [default: 0.9]",
)
@click.option(
    "--scheduling",
    type=click.Choice(("fcfs", "priority")),
    help="Serve by order of coming, or by the requests' `priority` (the lower, the sooner).  [default: fcfs]",
)
@click.option(
    "--prefix-caching/--no-prefix-caching",
    default=None,
    help="Keep KV blocks of prompts for others that begin alike.  [default: no, or the scenario's]",
)
@click.option(
    "--slowness",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    envvar=SLOWNESS_VARIABLE,
    help=f"Iterations take this many times as long as the law says. Also {SLOWNESS_VARIABLE}, for replicas that `poolpilot control` starts: a world that differs from what is believed of it.",
)
@click.option(
    "--law",
    type=click.Path(path_type=Path),
    help="File with a law measured on such a replica (poolpilot profile --out), in place of the performance model's.",
)
@click.option("--served-model-name", "names", multiple=True, help="The model's name in requests; repeat for several.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one.")
@click.option(
    "--speed-up",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Simulated seconds per real second. Metrics stay in simulated seconds.",
)
@click.option(
    "--stream-interval",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Iterations between two events of a stream; more spares CPU. First and last tokens always come on time.",
)
@click.option("--cap-file", type=click.Path(path_type=Path), help="JSON with the live batch cap; see above.")
@click.option(
    "--load-seconds",
    type=click.FloatRange(min=0),
    help="Simulated seconds from the process's start until it listens, as a real one loads its model."
    "  [default: 0, or the scenario's]",
)
@click.option(
    "--shutdown-timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Real seconds that requests in flight get after SIGTERM.",
)
@click.option("--dev-mode", is_flag=True, help="Offer /sleep, /wake_up and /is_sleeping. They ask for no password.")
@click.option("--die-with-parent", is_flag=True, help="Be killed when the starting process ends. Linux.")
@one_line_errors
def emulate(**options: Any) -> None:
    """Serve one emulated vLLM replica: OpenAI-compatible, GPU-free.

    Tokens come when the chosen GPU would give them: the simulator's engine (continuous batching, chunked prefill, KV
    blocks, preemption, priorities, prefix caching) decides, in real time or faster. The text is filler, and an answer always has exactly
    `max_tokens` tokens. A prompt given as a list of token ids has exactly that many; of text, four characters make one.

    \b
      poolpilot emulate --gpu L40S-48GB --model llama-2-13b --precision fp8 --port 8000
      poolpilot emulate --scenario mixed-chat --pool l40s --speed-up 10 --port 0
      curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\
           -d '{"model": "llama-2-13b", "prompt": "Hello", "max_tokens": 50, "stream": true}'

    It offers /v1/completions, /v1/chat/completions, /v1/embeddings, /v1/models, /health, /load, /version and /metrics
    with vLLM's names. When it is ready it prints one line with its address.

    --cap-file is read whenever it changes: {"fencing_token": 1, "batch_cap": 32, "token_budget": 2048} lets at most 32
    sequences run at once. Replace it by a rename. Values above the start values, and broken files, change nothing.

    SIGTERM drains: new requests get 503, those in flight finish, then it exits with 0. A second signal ends it at once.
    """
    from ..env.emulator.process import bound_socket, die_with_parent, lean_start
    from ..env.emulator.replica import spec_of

    if options["die_with_parent"]:
        die_with_parent()
    bound = bound_socket(options["host"], options["port"])
    given = _given(options)
    spec = spec_of(given, options["slowness"])
    with lean_start():
        from ..env.emulator.serving import ServeSettings, run, warm_up

        warm_up(spec)
    settings = ServeSettings(
        names=options["names"] or tuple(dict.fromkeys((given["model"], spec.model.name))),
        speed_up=options["speed_up"],
        stream_interval=options["stream_interval"],
        load_s=given.get("load_seconds", 0.0),
        shutdown_timeout_s=options["shutdown_timeout"],
        cap_file=options["cap_file"],
        dev_mode=options["dev_mode"],
    )
    run(spec, settings, bound)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """What was asked for on the command line, over what the scenario says."""
    given = {name: options[name] for name in (*_HARDWARE, *_FLAGS, "law", "load_seconds") if options[name] is not None}
    if options["scenario"] is not None:
        if options["pool"] is None:
            refuse("--scenario needs --pool: which of its pools the replica is of")
        from ..env.emulator.pool_options import pool_options
        from ..env.scenario import load_scenario

        given = pool_options(load_scenario(options["scenario"]), options["pool"]) | given
    elif options["pool"] is not None:
        refuse("--pool needs --scenario")
    unlike = given.get("stages") is not None
    for name in ("model",) if unlike else ("gpu", "model"):
        if name not in given:
            refuse(f"--{name} is missing; give --gpu and --model, or --scenario and --pool")
    for name in ("gpu", "tensor_parallel", "pipeline_parallel", "stage_layers") if unlike else ():
        if options[name] is not None:
            refuse(f"--{name.replace('_', '-')}: not with stages of GPUs that differ")
    return given
