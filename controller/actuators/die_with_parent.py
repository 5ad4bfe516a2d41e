"""Replaces itself by a command that the kernel kills when its parent dies, however the parent dies.

    python -I die_with_parent.py PARENT_PID COMMAND...

Run as a file of its own, so that asyncio programs need no code between fork and exec. Linux only.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent_pid: int, command: list[str]) -> None:
    """Ask for the signal, then become the command; the request survives exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}; wanted a Linux that has it")
    if os.getppid() != parent_pid:  # it died before the request was made
        sys.exit(f"parent process {parent_pid} is gone already; not starting {command[0]}")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]!r}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
