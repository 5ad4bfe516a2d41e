"""`poolpilot profile`: measure a live endpoint, and fit the law of its hardware."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import click
import numpy as np
from rich.markup import escape

from ..env.catalog.gpus import gpu
from ..env.catalog.models import model
from ..env.perf.correction import Correction, corrected_law
from ..env.perf.law_file import LawFile, LawRanges, MeasuredReplica
from ..env.perf.profiling import Observation, Profile, ProfileError, Scores, fit_correction, fit_table, scores
from ..env.perf.sweep import Probe, SweepLimits, plan_sweep
from .bad_input import one_line_errors, refuse
from .printing import console, log_console, percent, print_json, progress, table
from .profiling.endpoint import Description, Endpoint, describe
from .profiling.sweep import WARM_UP, Allowance, Swept, run_sweep

_PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8", "int4")
_UNKNOWN_LENGTH = 2048
"""Longest request tried where the endpoint does not tell its context length."""
_LONGEST_PROMPT = 8448
_TWO_ITERATIONS = 1.5


@click.command()
@click.option("--url", required=True, help="Base of an OpenAI-compatible server, such as http://localhost:8000.")
@click.option("--served-model-name", help="Which of its models.  [default: the only one]")
@click.option("--api-key-env", help="Environment variable that holds the server's key.")
@click.option("--gpu", "gpu_name", help="GPU of the replica: fit few factors over the performance model's law.")
@click.option("--model", "model_name", help="With --gpu: the model, by the name that scenarios use.")
@click.option("--precision", type=click.Choice(_PRECISIONS), help="With --gpu: of the weights.  [default: bf16]")
@click.option(
    "--tensor-parallel", "--tp", type=click.IntRange(1, 8), help="With --gpu: GPUs of the replica.  [default: 1]"
)
@click.option(
    "--max-num-batched-tokens",
    type=click.IntRange(16, 65536),
    help="The server's token budget of an iteration.  [default: told from how long prompts take]",
)
@click.option("--max-concurrency", type=click.IntRange(2, 512), default=64, show_default=True, help="Most streams.")
@click.option("--max-requests", type=click.IntRange(min=20), default=1000, show_default=True, help="Never more.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1000), default=300_000, show_default=True, help="Never more, both ways."
)
@click.option(
    "--budget",
    "budget_s",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    help="Seconds; never longer.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of the random prompts.  [default: another one each time]")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the law here, for `law:` of a pool."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@one_line_errors
def profile(url: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Measure a live endpoint by a short sweep, and fit the law that simulator and planner believe of it.

    It sends random prompts, alone and together, times every token, and reads /metrics where there is one; it changes
    nothing. What it may cost is said before it starts. Profile one idle replica, not a load balancer: other traffic is
    noticed and warned of. Ctrl-C stops it, and what is under way with it.

    \b
      poolpilot profile --url http://localhost:8000 --out mine.json
      poolpilot profile --url http://localhost:8000 --gpu L40S-48GB --model llama-3.1-8b --precision fp8 --out mine.json

    Without --gpu the law's own parameters are fitted. With --gpu and --model few factors over the performance model are,
    which need less data, and speak of other models on the same GPU too. A pool of a scenario takes it by `law: mine.json`.
    """
    replica = _replica(options)
    key = _key(options["api_key_env"])
    if out is not None and not out.absolute().parent.is_dir():
        refuse(f"--out {out}: no such folder")
    seed = options["seed"] if options["seed"] is not None else int.from_bytes(os.urandom(4), "little")
    try:
        measured = asyncio.run(_measure(url, options, key, seed))
    except KeyboardInterrupt:
        log_console().print("stopped; nothing was written")
        sys.exit(130)
    found = _fit(measured, replica, options["max_num_batched_tokens"])
    law_file = _law_file(measured, found, replica)
    if out is not None:
        out.write_text(json.dumps(law_file.document(), indent=2) + "\n", encoding="utf-8")
        log_console().print(f"wrote {out}: name it in a scenario as pools.NAME.law", markup=False)
    for note in found.notes:
        log_console().print(f"warning: {note}", style="yellow", markup=False)
    if as_json:
        print_json(_document(measured, found, law_file))
    else:
        _print(measured, found)


@dataclass(frozen=True)
class _Measured:
    """What the sweep brought."""

    description: Description
    swept: Swept


@dataclass(frozen=True)
class _Found:
    """What was fitted, to which probes, and how well it holds."""

    profile: Profile
    observations: list[Observation]
    held_out: Scores | None
    fitted: Scores | None
    believed: Scores | None
    """Of the performance model as shipped, on all probes; None without --gpu."""
    notes: list[str]


def _replica(options: dict[str, Any]) -> MeasuredReplica | None:
    """What --gpu and its companions say; checked before anything is sent."""
    given = {
        name: options[name] for name in ("model_name", "precision", "tensor_parallel") if options[name] is not None
    }
    if options["gpu_name"] is None:
        if given:
            refuse(f"--{next(iter(given)).removesuffix('_name').replace('_', '-')} needs --gpu")
        return None
    if options["model_name"] is None:
        refuse("--gpu needs --model: the law of a GPU depends on what it runs")
    card, shape = gpu(options["gpu_name"]), model(options["model_name"])
    replica = MeasuredReplica(
        gpu=card.name,
        model=shape.name,
        precision=options["precision"] or "bf16",
        tensor_parallel=options["tensor_parallel"] or 1,
    )
    corrected_law(card, shape, replica.precision, replica.tensor_parallel, Correction())
    return replica


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        refuse(f"--api-key-env {variable}: no such environment variable, or it is empty")
    return os.environ[variable]


async def _measure(url: str, options: dict[str, Any], key: str | None, seed: int) -> _Measured:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=15)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:
        description = await describe(session, url, options["served_model_name"])
        allowance = Allowance(options["max_requests"], options["max_tokens"], options["budget_s"])
        probes = plan_sweep(_limits(description, options))
        _announce(description, probes, allowance)
        with progress() as bar:
            task = bar.add_task("probing", total=len(probes))
            endpoint = Endpoint(session, description)
            swept = await run_sweep(endpoint, probes, allowance, np.random.default_rng(seed), lambda: bar.advance(task))
    return _Measured(description, swept)


def _limits(description: Description, options: dict[str, Any]) -> SweepLimits:
    longest = min(description.max_model_len or _UNKNOWN_LENGTH, _LONGEST_PROMPT)
    return SweepLimits(
        max_requests=options["max_requests"] - WARM_UP.requests,
        max_tokens=options["max_tokens"] - WARM_UP.tokens,
        max_concurrency=options["max_concurrency"],
        max_prompt_tokens=longest,
        kv_tokens=description.kv_tokens,
        token_budget=options["max_num_batched_tokens"],
    )


def _announce(description: Description, probes: Sequence[Probe], allowance: Allowance) -> None:
    notes = log_console()
    version = f" {description.version}" if description.version else ""
    notes.print(f"{description.url}: model {description.model}, server version{version or ' unknown'}", markup=False)
    planned = sum(p.requests for p in probes), sum(p.tokens for p in probes)
    notes.print(
        f"{len(probes)} probes: {planned[0]} requests of {planned[1]:,} tokens; never more than {allowance.max_requests}"
        f" requests, {allowance.max_tokens:,} tokens, {allowance.budget_s:g} s. Only completions and GETs.",
        markup=False,
    )
    if not description.has_metrics:
        notes.print("no /metrics page: other traffic cannot be noticed", style="yellow", markup=False)


def _fit(measured: _Measured, replica: MeasuredReplica | None, token_budget: int | None) -> _Found:
    swept = measured.swept
    notes = list(swept.notes)
    used = swept.observations
    if swept.disturbed:
        notes.append(f"other requests ran during {len(swept.disturbed)} probes: profile an idle replica")
    try:
        found = _fitted(used, replica, token_budget)
        if swept.disturbed:
            notes.append("those probes were left out")
    except ProfileError:
        used = used + swept.disturbed
        found = _fitted(used, replica, token_budget)
        if swept.disturbed:
            notes.append(
                "too few others were timed: they were used all the same, expect the law to be slower than true"
            )
    notes += _doubts(found, used)
    held_out = scores(found, [o for o in used if o.held_out])
    fitted = scores(found, [o for o in used if not o.held_out])
    return _Found(found, used, held_out, fitted, _believed(found, used, replica), notes)


def _fitted(observations: Sequence[Observation], replica: MeasuredReplica | None, token_budget: int | None) -> Profile:
    if replica is None:
        return fit_table(observations, token_budget)
    card, shape = gpu(replica.gpu), model(replica.model)
    return fit_correction(observations, card, shape, replica.precision, replica.tensor_parallel, token_budget)


def _doubts(found: Profile, used: Sequence[Observation]) -> list[str]:
    """What the numbers cannot tell, and factors that say the GPU or the model is another one than was named."""
    doubts = []
    longest = max(o.prompt_tokens for o in used if o.kind == "prefill")
    if longest < _TWO_ITERATIONS * found.token_budget:
        doubts.append(
            f"the longest prompt, of {longest} tokens, took about one iteration: attention over longer ones is not told"
            " apart from the rest"
        )
    if len({o.prompt_tokens for o in used if o.kind == "decode" and not o.held_out}) < 2:
        doubts.append("all decoding was timed at one context length: KV reads are not told apart from the rest")
    if found.correction is not None:
        doubts += [
            f"{name} runs at {value:.2f} of what the performance model says: is it this GPU, model, precision and split?"
            for name, value in (("compute", found.correction.compute), ("memory", found.correction.memory))
            if not 0.5 <= value <= 1.5
        ]
    return doubts


def _believed(found: Profile, used: Sequence[Observation], replica: MeasuredReplica | None) -> Scores | None:
    """How far off the shipped model is, with the answers' own delay taken as fitted."""
    if replica is None:
        return None
    law = corrected_law(
        gpu(replica.gpu), model(replica.model), replica.precision, replica.tensor_parallel, Correction()
    )
    return scores(Profile(law, found.table, found.token_budget, found.answer_s), used)


def _law_file(measured: _Measured, found: _Found, replica: MeasuredReplica | None) -> LawFile:
    decodes = [o for o in found.observations if o.kind == "decode"]
    longest = float(max(o.prompt_tokens for o in found.observations))
    return LawFile(
        schema=1,
        law=found.profile.table,
        kv_tokens=measured.description.kv_tokens,
        replica=replica,
        correction=found.profile.correction,
        ranges=LawRanges(
            tokens=(found.profile.table.tokens[0], min(longest, float(found.profile.token_budget))),
            sequences=(min(o.sequences for o in decodes), max(o.sequences for o in decodes)),
            context_tokens=(
                min(o.context_tokens / o.sequences for o in decodes),
                max(o.context_tokens / o.sequences for o in decodes),
            ),
        ),
        measured={
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "served_model": measured.description.model,
            "server_version": measured.description.version,
            "token_budget": found.profile.token_budget,
            "answer_s": found.profile.answer_s,
            "fitted": found.fitted and asdict(found.fitted),
            "held_out": found.held_out and asdict(found.held_out),
        },
    )


def _document(measured: _Measured, found: _Found, law_file: LawFile) -> dict[str, Any]:
    swept = measured.swept
    return {
        "url": measured.description.url,
        "cost": {"requests": swept.requests, "tokens": swept.tokens, "seconds": round(swept.seconds, 1)},
        "law_file": law_file.document(),
        "held_out": found.held_out and asdict(found.held_out),
        "fitted": found.fitted and asdict(found.fitted),
        "performance_model": found.believed and asdict(found.believed),
        "probes": [{**asdict(o), "predicted_s": found.profile.predicted_s(o)} for o in found.observations],
        "notes": found.notes,
    }


def _print(measured: _Measured, found: _Found) -> None:
    out = console()
    rows = []
    for o in sorted(found.observations, key=lambda o: (o.kind, o.prompt_tokens, o.sequences)):
        predicted = found.profile.predicted_s(o)
        what = "iteration" if o.kind == "decode" else "first token"
        rows.append(
            (
                what,
                o.sequences,
                o.prompt_tokens,
                f"{o.seconds * 1e3:.2f}",
                f"{predicted * 1e3:.2f}",
                f"{predicted / o.seconds - 1:+.1%}",
                "held out" if o.held_out else "",
            )
        )
    columns = ("timed", "sequences", "prompt tokens", "measured ms", "fitted ms", "off", "")
    out.print(table(f"Probes of {escape(measured.description.model)}", columns, rows))
    out.print(table("How well the law fits", ("probes", "count", "median", "p90", "bias"), _score_rows(found)))
    law = found.profile.law
    out.print(
        f"a lone token {law.linear_s[0] * 1e3:.2f} ms, a prompt of 512 tokens {float(law.linear(512.0)) * 1e3:.2f} ms,"
        f" {law.kv_read_s_per_token * 1e9:.1f} ns a KV token, {law.attend_s_per_pair * 1e9:.2f} ns an attended pair,"
        f" {law.seq_s * 1e6:.1f} us a sequence; {found.profile.answer_s * 1e3:.1f} ms on top of every answer;"
        f" {found.profile.token_budget} tokens an iteration",
        highlight=False,
    )
    if found.profile.correction is not None:
        factors = ", ".join(f"{name} {value:.3f}" for name, value in found.profile.correction.model_dump().items())
        out.print(f"multiples of the shipped factors: {factors}", highlight=False)
    swept = measured.swept
    out.print(f"cost: {swept.requests} requests, {swept.tokens:,} tokens, {swept.seconds:.0f} s", highlight=False)


def _score_rows(found: _Found) -> list[tuple[object, ...]]:
    named = (
        ("held out from the fit", found.held_out),
        ("fitted", found.fitted),
        ("all, by the performance model as shipped", found.believed),
    )
    return [(name, s.count, percent(s.median), percent(s.p90), percent(s.bias)) for name, s in named if s is not None]
