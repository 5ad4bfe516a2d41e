"""A long fuzz run of the readers: `make fuzz ARGS="--minutes 10"`.

Works in child processes, a few thousand files each, so that a crash of a native library is seen too: the file at
fault lies in the folder of findings, which `--again FILE` reads once more.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from poolpilot.tests.fuzz.targets import TARGETS

FILES_A_CHILD = 1000
HANG_S = 60.0
MEMORY_BYTES = 6 << 30
SLOW_CPU_S = 10.0  # Python reads YAML of the largest size in some 6 s


def child(target_name: str, seed: int, folder: Path) -> None:
    """Read files of one target; the current one lies in `folder`, to be found if this process dies."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    target = next(t for t in TARGETS if t.name == target_name)
    current = folder / "current"
    counts: collections.Counter[str] = collections.Counter()
    for i in range(FILES_A_CHILD):
        content = target.mutate(random.Random(f"{target_name} {seed} {i}"))
        current.write_bytes(content)
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        began_s = time.process_time()
        with tempfile.TemporaryDirectory(dir=folder) as own:
            counts[target.outcome(content, Path(own))] += 1
        faulthandler.cancel_dump_traceback_later()
        if time.process_time() - began_s > SLOW_CPU_S:
            raise TimeoutError(f"took {time.process_time() - began_s:.1f} s of CPU")
    print(json.dumps(counts))


def main() -> int:
    """Run until the time is over; the exit code is 1 if anything was found."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of traces and scenarios.")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path(".fuzz"))
    parser.add_argument("--only", choices=[t.name for t in TARGETS])
    parser.add_argument("--child", nargs=3, metavar=("TARGET", "SEED", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--again", nargs=2, metavar=("TARGET", "FILE"), help="read a finding once more")
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]), Path(options.child[2]))
        return 0
    if options.again:
        target = next(t for t in TARGETS if t.name == options.again[0])
        with tempfile.TemporaryDirectory() as own:
            print(target.outcome(Path(options.again[1]).read_bytes(), Path(own)))
        return 0
    return _parent(options.minutes, options.seed, options.findings, options.only)


def _parent(minutes: float, seed: int, findings: Path, only: str | None) -> int:
    totals: dict[str, collections.Counter[str]] = {t.name: collections.Counter() for t in TARGETS}
    names = [only] if only else list(totals)
    end_s = time.monotonic() + 60.0 * minutes
    found = 0
    while time.monotonic() < end_s:
        name = names[seed % len(names)]
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "poolpilot.tests.fuzz.run", "--child", name, str(seed), folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                totals[name].update(json.loads(done.stdout))
            else:
                found += 1
                findings.mkdir(parents=True, exist_ok=True)
                kept = findings / f"{name}-{seed}"
                kept.write_bytes((Path(folder) / "current").read_bytes())
                print(f"{kept}: exit code {done.returncode}\n{done.stderr[-1500:]}", file=sys.stderr)
        seed += 1
    for name, counts in totals.items():
        print(f"{name:16} {counts.total():9} files: {counts['used']:8} used, {counts['refused']:9} refused")
    print(f"{found} findings" + (f" in {findings}" if found else ""))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
