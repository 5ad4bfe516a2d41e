"""The command line: wires commands, lazily, so that `--help` and the sidecar load only what they need."""

from __future__ import annotations

import importlib
import sys

import click

from . import __version__

COMMANDS = {
    "demo": "Watch a trained policy steer mixed GPU pools through a real Envoy, against baselines.",
    "demo-vllm": "The same with real vLLM servers on this machine's CPU, paced as unlike GPUs.",
    "audit": "What your fleet spent and held, and what other policies would have: from Prometheus or a request log.",
    "simulate": "Run policies over a scenario in the simulator and print what they cost and reach.",
    "scenarios": "List the shipped scenarios, or check a scenario file of your own.",
    "plan": "Which GPUs to rent, how laid out, at which precision, and which class goes where.",
    "train": "Train a policy in the simulator.",
    "evaluate": "Compare policies over scenarios and seeds, with confidence intervals.",
    "finetune": "Learn from the live system, beside it; nothing reaches traffic unproven.",
    "tune": "Search the rules' knobs for the least bill that holds the targets.",
    "policies": "List policies, checkpoints and a registry's versions with their evidence; promote and roll back.",
    "emulate": "Serve one emulated vLLM replica: OpenAI-compatible, GPU-free.",
    "control": "Run the sidecar: observe, decide, guard, act, record.",
    "dashboard": "Show a sidecar live in a browser: fleet, decisions explained, policies, savings.",
    "profile": "Measure a live endpoint by a short sweep and fit the law of its hardware.",
    "calibrate": "Fit the performance model to measured data, or check it against a table.",
}
"""What each command does, in one line. The command is `commands.NAME:NAME`, with _ for -."""


class _Lazy(click.Group):
    """Imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f".commands.{name}", __package__)
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_reference(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    """Imports every command, which nothing else does."""
    if asked:
        from .commands.reference import reference

        click.echo(reference(main), nl=False)
        ctx.exit()


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="poolpilot")
@click.option(
    "--reference",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_reference,
    help="Print the reference of all commands, in Markdown.",
)
def main() -> None:
    """An autopilot for LLM serving on mixed GPUs.

    poolpilot decides, every few seconds, which pool of GPUs serves which class of request, how large a batch each
    pool may run, and how many replicas are up, so that every class meets its latency target at the lowest bill.

    \b
    Start here:
      poolpilot demo                       see it work, no GPU needed
      poolpilot audit --write-example      what your own fleet costs: from Prometheus or a request log
      poolpilot scenarios                  what a cluster and its targets look like as a file
      poolpilot simulate --scenario NAME   what policies would cost on it
    """


if __name__ == "__main__":
    sys.exit(main())
