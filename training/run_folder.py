"""The folder of a run: its arguments, and the state to resume from. No pickles: safetensors and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from stable_baselines3 import PPO

from .averaging import Averaged
from .config import TrainConfig
from .multipliers import Multipliers
from .run_files import ARGUMENTS, STATE_COUNTERS, STATE_WEIGHTS, resumable

IMITATION: Final = "imitation.json"
MAY_CHANGE: Final = frozenset({"steps", "record", "recorded_until_unix_s"})
"""Of the arguments, when a run is gone on with: more steps, and a record that has grown since."""


class TrainError(ValueError):
    """A run cannot be started or resumed; the message is one line."""


def check(config: TrainConfig, folder: Path, resume: bool) -> None:
    """That a run can begin in `folder`, or go on there.

    Raises:
        TrainError: the folder holds another run, or none to resume.
    """
    arguments = folder / ARGUMENTS
    if resume:
        if not resumable(folder):
            raise TrainError(f"{folder}: nothing to resume there; start without --resume")
        try:
            before = dict(json.loads(arguments.read_text()))
        except (OSError, ValueError) as error:
            raise TrainError(
                f"{arguments}: cannot be read ({error}); wanted the arguments of the run to resume"
            ) from None
        after = json.loads(json.dumps(asdict(config)))
        differs = [k for k in after if k in before and k not in MAY_CHANGE and before[k] != after[k]]
        if differs:
            raise TrainError(f"{folder}: {differs[0]} was {before[differs[0]]!r}, now {after[differs[0]]!r}")
    elif arguments.exists() and (resumable(folder) or (folder / IMITATION).exists()):
        raise TrainError(f"{folder}: holds a run already; continue it with --resume, or name another folder")


def prepare(config: TrainConfig, folder: Path, resume: bool) -> None:
    """Make the run folder, or check that it holds this very run (TrainError if not)."""
    check(config, folder, resume)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARGUMENTS).write_text(json.dumps(asdict(config), indent=2) + "\n")


def save_state(model: PPO, folder: Path, averaged: Averaged, multipliers: Multipliers | None = None) -> None:
    """Write what resuming needs; a cut-off write leaves the older state whole."""
    tensors = {f"policy.{k}": v.detach().clone().contiguous() for k, v in model.policy.state_dict().items()}
    tensors |= {f"averaged.{k}": v.contiguous() for k, v in averaged.weights.items()}
    steps: dict[str, float] = {}
    for i, state in model.policy.optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.ndim:
                tensors[f"optimizer.{i}.{name}"] = value.contiguous()
            else:
                steps[f"{i}.{name}"] = float(value)
    weights = folder / (STATE_WEIGHTS + ".part")
    save_file(tensors, weights)
    counters: dict[str, Any] = {"timesteps": model.num_timesteps, "averaged": averaged.seen, "optimizer": steps}
    if multipliers:
        counters["multipliers"] = multipliers.as_json()
    written = folder / (STATE_COUNTERS + ".part")
    written.write_text(json.dumps(counters))
    weights.replace(folder / STATE_WEIGHTS)
    written.replace(folder / STATE_COUNTERS)


def load_state(model: PPO, folder: Path, averaged: Averaged) -> Multipliers | None:
    """Continue where `save_state` left off; the multipliers, if the run had any.

    Raises:
        TrainError: the folder's state does not fit the network.
    """
    try:
        tensors = load_file(folder / STATE_WEIGHTS)
        counters = json.loads((folder / STATE_COUNTERS).read_text())
        own = {k.removeprefix("policy."): v for k, v in tensors.items() if k.startswith("policy.")}
        model.policy.load_state_dict(own)
        averaged.weights = {name: tensors[f"averaged.{name}"] for name in averaged.weights}
        averaged.seen = int(counters["averaged"])
        _load_optimizer(model.policy.optimizer, tensors, counters["optimizer"])
        model.num_timesteps = int(counters["timesteps"])
        return Multipliers.from_json(counters["multipliers"]) if "multipliers" in counters else None
    except (OSError, KeyError, TypeError, RuntimeError, ValueError, SafetensorError) as error:
        raise TrainError(f"{folder}: cannot resume: {str(error).splitlines()[0][:200]}") from None


def _load_optimizer(optimizer: Any, tensors: dict[str, torch.Tensor], scalars: dict[str, float]) -> None:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = tensor
    for key, number in scalars.items():
        i, name = key.split(".")
        state.setdefault(int(i), {})[name] = torch.tensor(number)
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
