"""Steps are processes: what they say comes back, and who is told to stop stops them first."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poolpilot.commands.finetuning.stepping import AtWork, Stopped, steps_in


def test_a_step_hands_back_its_exit_code_and_its_json(tmp_path: Path) -> None:
    with steps_in(tmp_path / "tuned") as steps:
        code, said = steps.run("policies", ("policies", "show"))
        assert code == 0
        assert "checkpoints" in said
        assert steps.run("policies", ("policies", "show", "no such policy")) == (2, {})


def test_nobody_else_works_in_the_folder_meanwhile(tmp_path: Path) -> None:
    with steps_in(tmp_path), pytest.raises(AtWork, match="another `finetune run` is at work there"), steps_in(tmp_path):
        pass
    with steps_in(tmp_path):
        pass


def test_whoever_is_told_to_stop_starts_no_step_any_more(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with steps_in(tmp_path) as steps:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped) as stopped:
            steps.run("refit", ("finetune", "refit", "nowhere"))
    assert (stopped.value.step, stopped.value.exit_code) == ("refit", 143)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGHUP])
def test_a_step_that_runs_is_stopped_with_us(tmp_path: Path, by: signal.Signals) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from poolpilot.commands.finetuning.stepping import Stopped, steps_in\n"
        "with steps_in(Path('.')) as steps:\n"
        "    try:\n"
        "        steps.run('learn', ('train', '--steps', '1000000', '--out', 'run'))\n"
        "    except Stopped as stopped:\n"
        "        sys.exit(stopped.exit_code)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as process:
        children, until = Path(f"/proc/{process.pid}/task/{process.pid}/children"), time.monotonic() + 60.0
        while not children.read_text():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(by)
        assert process.wait(timeout=60.0) == 128 + by
    with steps_in(tmp_path):  # a step holds the lock as long as it lives
        pass
