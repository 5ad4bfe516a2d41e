"""Checkpoints to be versions: networks whose answer is given, with everything else real."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from poolpilot.agents.blend import Member, portfolio_as_json
from poolpilot.agents.checkpoint import ONNX, write_card
from poolpilot.agents.learned import INPUTS, OUTPUTS
from poolpilot.agents.registry import GATES, Evidence, Registry, Verdict
from poolpilot.env.codec import CLASS_FEATURES, POOL_FEATURES, WHOLE_FEATURES

OUTPUT_COUNTS = (2, 4, 3)
PORTFOLIO = (
    Member(
        "plan-tracking+integral",
        {
            "headroom": 0.8917,
            "burst": 0.7257,
            "hold_s": 75.48,
            "backlog_drain_s": 49.16,
            "correction": 0.04095,
            "payback_s": 94.91,
            "spot_risk": 0.2295,
            "zone_share": 0.9542,
            "memory_s": 372.7,
            "gain": 0.1068,
            "limit": 0.2486,
        },
    ),
    Member(
        "workload-aware",
        {
            "headroom": 0.9619,
            "burst": 0.9818,
            "hold_s": 35.41,
            "long_tokens": 5030.0,
            "strictness": 0.6277,
            "spot_aversion": 0.3005,
        },
    ),
    Member("cheapest-fit", {"headroom": 1.013, "burst": 0.6533, "hold_s": 282.9, "spot_aversion": 0.03269}),
    Member(
        "spot-fallback",
        {
            "headroom": 1.01,
            "burst": 0.6306,
            "overprovision": 0.09076,
            "memory_s": 107.1,
            "starting_counts": 0.9095,
            "hold_s": 505.8,
        },
    ),
)
"""What they bend: rules with knobs of their own, so that rules that are tuned anew change none of these candidates."""


def a_checkpoint(
    folder: Path,
    *,
    name: str = "candidate",
    class_output: Sequence[float] = (0.0, 0.0),
    pool_output: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    whole_output: Sequence[float] = (0.0, 0.0, 0.0),
    card: dict[str, object] | None = None,
) -> Path:
    """A checkpoint that answers the same whatever it sees."""
    folder.mkdir(parents=True, exist_ok=True)
    features = (len(CLASS_FEATURES), len(POOL_FEATURES), len(WHOLE_FEATURES))
    nodes, constants = [], []
    for source, target, n_in, bias in zip(
        INPUTS, OUTPUTS, features, (class_output, pool_output, whole_output), strict=False
    ):
        constants += [
            numpy_helper.from_array(np.zeros((n_in, len(bias)), np.float32), f"w_{target}"),
            numpy_helper.from_array(np.asarray(bias, np.float32), f"b_{target}"),
        ]
        nodes.append(helper.make_node("MatMul", [source, f"w_{target}"], [f"m_{target}"]))
        nodes.append(helper.make_node("Add", [f"m_{target}", f"b_{target}"], [target]))
    # The masks must be inputs of the graph, and an input that nothing reads is dropped by nobody.
    shapes = [["b", "c", features[0]], ["b", "p", features[1]], ["b", features[2]], ["b", "c"], ["b", "p"]]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(INPUTS, shapes, strict=True)]
    outputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in zip(OUTPUTS, [["b", "c", 2], ["b", "p", 4], ["b", 3]], strict=True)
    ]
    graph = helper.make_graph(nodes, "given", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / ONNX))
    whole = {"name": name, "miss_price": 0.5, "portfolio": portfolio_as_json(PORTFOLIO), **(card or {})}
    write_card(folder, whole)
    return folder


def let_through(registry: Registry, version: str, gates: Sequence[str] = GATES) -> None:
    """As if every gate had passed, against whoever decides now."""
    for gate in gates:
        registry.keep(Evidence(gate, version, registry.incumbent(), Verdict.PASS, "as good"))
