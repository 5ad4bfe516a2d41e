"""Times vllm-sr-sim on a trace written by `cases.trace`; run by a Python that has it installed, and nothing of ours.

It does not simulate iterations: a request holds a slot for the service time at a full batch divided by the slots. So
only its speed is looked at, with the iteration times of the same GPU and model that ours has.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib import metadata

import numpy as np
from fleet_sim.core.fleet import Fleet, FleetConfig, PoolConfig
from fleet_sim.core.request import Request
from fleet_sim.gpu_profiles.manual import ManualProfile


def main(path: str, replicas: int, engine: dict[str, float]) -> dict[str, object]:
    """CPU seconds of `Fleet.run`; the list of requests is made before."""
    trace = np.load(path)
    arrivals = [
        (at_s, Request(i, at_s, prompt, output))
        for i, (at_s, prompt, output) in enumerate(
            zip(trace["arrival_s"].tolist(), trace["prompt"].tolist(), trace["output"].tolist(), strict=True)
        )
    ]
    profile = ManualProfile(
        name="bench",
        W=engine["iteration_s"],
        H=engine["sequence_s"],
        calibration_ctx=int(engine["calibration_tokens"]),
        chunk=512,
        blk_size=16,
        total_kv_blks=int(engine["kv_blocks"]),
        # Slots are given at the calibration context, and scaled by it over the longest context.
        max_slots=int(engine["max_num_seqs"] * engine["max_model_len"] / engine["calibration_tokens"]),
        cost_per_hr=2.0,
    )
    pool = PoolConfig("all", profile, replicas, int(engine["max_model_len"]), lb_strategy="least_loaded")
    fleet = Fleet(FleetConfig([pool], router_type="RandomRouter"))
    before = time.process_time()
    result = fleet.run(arrivals)
    spent = time.process_time() - before
    return {
        "requests": len(arrivals),
        "requests_per_cpu_s": len(arrivals) / spent,
        "completed": len(result.completed),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
        "version": metadata.version("vllm-sr-sim"),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))))
