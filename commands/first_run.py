"""What the first run on a machine takes longer for."""

from __future__ import annotations

from .printing import log_console


def say_if_it_compiles() -> None:
    """A line on stderr if the simulator has yet to be compiled here, which takes about a minute."""
    from ..env.compiled_cache import is_kept
    from ..env.sim.advance import advance_some

    if not is_kept(advance_some):
        log_console().print("compiling the simulator, once on this machine: about a minute ...", style="dim")
