"""Runs in vLLM's environment: parses commands with vLLM's own parser, and splits layers with its own function.

Reads a JSON list of {args, env, layers, pipeline_parallel} from stdin, prints a JSON list of what vLLM understood.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import vllm
from vllm.distributed.utils import get_pp_indices
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS, get_quantization_config

try:  # 0.32
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
except ImportError:
    from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args
try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ImportError:
    from vllm.utils import FlexibleArgumentParser

FIELDS = (
    *(
        "model",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "dtype",
        "quantization",
        "max_model_len",
        "max_num_seqs",
    ),
    *("max_num_batched_tokens", "gpu_memory_utilization", "scheduling_policy", "enable_prefix_caching"),
    *("nnodes", "node_rank", "master_addr"),
)


def understood(command: dict[str, Any], parser: Any) -> dict[str, Any]:
    """What the engine would be given, and which layers each stage would hold."""
    parsed = parser.parse_args(command["args"])
    if getattr(parsed, "model_tag", None) is not None:
        parsed.model = parsed.model_tag  # as `vllm serve` does with its positional argument
    validate_parsed_serve_args(parsed)
    engine = AsyncEngineArgs.from_cli_args(parsed)
    os.environ.pop("VLLM_PP_LAYER_PARTITION", None)
    os.environ.update(command["env"])
    stages = command["pipeline_parallel"]
    spans = [get_pp_indices(command["layers"], rank, stages) for rank in range(stages)]
    method = engine.quantization
    return {
        **{name: getattr(engine, name) for name in FIELDS},
        "served_model_name": parsed.served_model_name,
        "headless": bool(parsed.headless),
        "split": [end - start for start, end in spans],
        "known_method": method is None or method in QUANTIZATION_METHODS,
        "min_capability": None
        if method in (None, "fp8_per_tensor")
        else get_quantization_config(method).get_min_capability(),
    }


def main() -> None:
    """Parse what comes."""
    parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
    commands = json.load(sys.stdin)
    print(json.dumps({"vllm": vllm.__version__, "understood": [understood(c, parser) for c in commands]}))


if __name__ == "__main__":
    main()
