"""vLLM's own scheduler, its steps paced to an iteration law: with it a real server keeps the time of any GPU.

`--scheduler-cls paced_scheduler.PacedScheduler`, with this folder on PYTHONPATH. It lives in vLLM's engine process and
imports nothing but the standard library, vllm and what lies beside it. Environment variables:

    POOLPILOT_PACING_LAW   a law file (what `poolpilot profile --out` writes)
    POOLPILOT_PACED_GPU    optional: the card whose warmth goes onto the metrics page (`paced_gpu`)
    POOLPILOT_PACING_LOG   optional: one JSON line for each request as it arrives, and for each step as it ends

A step's results are held back until its start plus what the law says of its work, an absolute time. The next step starts
at that very time, however long vLLM took to get there: its own overhead hides behind the law unless a step takes longer
than the law allows, which the log tells (`late_s`).
"""

from __future__ import annotations

import json
import os
import time
from bisect import bisect_right
from pathlib import Path
from typing import Any

import vllm
from paced_gpu import Warmth, gpu_of_environment
from vllm.v1.core.sched.scheduler import Scheduler

LAW_VARIABLE = "POOLPILOT_PACING_LAW"
LOG_VARIABLE = "POOLPILOT_PACING_LOG"
_SPIN_S = 0.0005
"""The last bit is waited for awake: a sleeping process wakes up late on a busy machine."""


class Law:
    """t = linear(tokens) + attend * pairs + kv_read * context + seq * decodes, as `IterationLaw` has it."""

    def __init__(self, path: Path) -> None:
        """Read the `law` of a law file."""
        table = json.loads(path.read_text(encoding="utf-8"))["law"]
        self._tokens, self._linear_s = table["tokens"], table["linear_s"]
        self._attend, self._kv_read, self._seq = (
            table[name] for name in ("attend_s_per_pair", "kv_read_s_per_token", "seq_s")
        )

    def linear_s(self, tokens: int) -> float:
        """Flat before the first count, the last slope beyond the last."""
        if tokens <= self._tokens[0]:
            return float(self._linear_s[0])
        after = min(bisect_right(self._tokens, tokens), len(self._tokens) - 1)
        x0, x1 = self._tokens[after - 1], self._tokens[after]
        y0, y1 = self._linear_s[after - 1], self._linear_s[after]
        return float(y0 + (y1 - y0) * (tokens - x0) / (x1 - x0))

    def iteration_s(self, prefill: int, pairs: float, decodes: int, context: int) -> float:
        """Seconds of one step."""
        attention_s = self._attend * pairs + self._kv_read * context
        return float(self.linear_s(prefill + decodes) + attention_s + self._seq * decodes)


class PacedScheduler(Scheduler):  # type: ignore[misc]
    """vLLM's scheduler, undisturbed, but for when a step's results come.

    On CPUs vLLM never schedules asynchronously, so the synchronous class is the one that would run anyway.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if LAW_VARIABLE not in os.environ:
            raise RuntimeError(f"{LAW_VARIABLE} is not set: wanted the path of a law file")
        if self.scheduler_config.async_scheduling:
            raise RuntimeError("async scheduling is on: steps overlap, so they cannot be paced one by one")
        self._law = Law(Path(os.environ[LAW_VARIABLE]))
        log = os.environ.get(LOG_VARIABLE)
        self._log = open(log, "a", buffering=1, encoding="utf-8") if log else None  # noqa: SIM115
        self._say({"vllm": vllm.__version__, "blocks": self.cache_config.num_gpu_blocks, "block": self.block_size})
        self._busy_until_s: float | None = None
        """End of the last step, if there was work left then; the next one starts there."""
        self._step: dict[str, Any] | None = None
        gpu = gpu_of_environment()
        self._warmth = Warmth(gpu, time.monotonic()) if gpu else None
        self._warm_from_s = 0.0
        """Since when the GPU is taken to be busy: by the clock, as a machine too busy to keep the law leaves it no idle
        time either."""

    def add_request(self, request: Any) -> None:
        """Note when a request reached the engine: before that it was under way through HTTP and the API server."""
        self._say({"request": request.request_id, "at_s": time.monotonic()})
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Decide as ever, and work out when this step ends."""
        now_s = time.monotonic()
        output = super().schedule(*args, **kwargs)
        self._step = None
        if output.total_num_scheduled_tokens:
            if self._busy_until_s is None:
                self._warm_from_s = now_s
            start_s = now_s if self._busy_until_s is None else self._busy_until_s
            work = self._work(output)
            self._step = {"start_s": start_s, "begun_s": now_s, **work, "law_s": self._law.iteration_s(**work)}
        else:
            self._busy_until_s = None
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Hold the results back until the step's time is over."""
        step = self._step
        if step is not None and scheduler_output.total_num_scheduled_tokens:
            end_s = step["start_s"] + step["law_s"]
            done_s = time.monotonic()
            while (left_s := end_s - time.monotonic()) > 0:
                if left_s > _SPIN_S:
                    time.sleep(left_s - _SPIN_S)
            late_s = max(done_s - end_s, 0.0)
            step |= {"computed_s": done_s - step["begun_s"], "late_s": late_s}
            step["running"], step["waiting"] = len(self.running), len(self.waiting)
            self._say(step)
            if self._warmth is not None:
                now_s = time.monotonic()
                self._warmth.worked(now_s - self._warm_from_s, now_s)
                self._warm_from_s = now_s
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        if step is not None:
            # By the clock of the law, not by when this machine got to it: the next steps make good what one was late.
            self._busy_until_s = end_s if self.has_unfinished_requests() else None
        return outputs

    def _work(self, output: Any) -> dict[str, Any]:
        """Tokens, pairs and context of a step, counted as the law counts them.

        vLLM has already added the step's tokens to `num_computed_tokens`.
        """
        prefill = decodes = context = 0
        pairs = 0.0
        for name, new in output.num_scheduled_tokens.items():
            request = self.requests[name]
            held = request.num_computed_tokens
            # One token of a request that has answered before is decoding, or the last one of a recomputation.
            if new == 1 and request.num_output_tokens and held == request.num_tokens:
                decodes += 1
                context += held
            else:
                prefill += new
                pairs += new * (held - new / 2)
        return {"prefill": prefill, "pairs": pairs, "decodes": decodes, "context": context}

    def _say(self, line: dict[str, Any]) -> None:
        if self._log:
            self._log.write(json.dumps(line) + "\n")
