"""What the folder of a run holds: who asks for the same again goes on, and nobody goes on with something else."""

from pathlib import Path

import pytest

from poolpilot.commands.finetuning.begun import Beginning, Folder, OtherRun
from poolpilot.training.run_files import STATE_COUNTERS


@pytest.fixture
def world(tmp_path: Path) -> Path:
    for name in ("decisions.jsonl", "mine.yaml"):
        (tmp_path / name).write_text("as it was\n")
    return tmp_path


def beginning(world: Path, seed: int = 0) -> Beginning:
    return Beginning.of((world / "decisions.jsonl",), str(world / "mine.yaml"), None, seed)


def refitted(world: Path) -> Folder:
    folder = Folder(world / "tuned")
    folder.refit.mkdir(parents=True)
    folder.twin.write_text("the twin\n")
    folder.note_refitted(beginning(world))
    return folder


def learning(folder: Folder) -> Folder:
    folder.learned.mkdir()
    (folder.learned / STATE_COUNTERS).write_text("{}")
    return folder


def test_a_refit_is_gone_on_with_though_the_record_has_grown(world: Path) -> None:
    folder = refitted(world)
    with (world / "decisions.jsonl").open("a") as log:
        log.write("and more\n")
    assert folder.is_refitted(beginning(world))


def test_one_that_was_cut_off_or_whose_twin_is_gone_is_made_again(world: Path) -> None:
    folder = refitted(world)
    folder.begin_refit()
    assert not folder.is_refitted(beginning(world))
    folder.note_refitted(beginning(world))
    folder.twin.unlink()
    assert not folder.is_refitted(beginning(world))


def test_other_beliefs_are_refitted_anew_but_not_under_what_was_learned(world: Path) -> None:
    folder = refitted(world)
    (world / "mine.yaml").write_text("as it is believed now\n")
    assert not folder.is_refitted(beginning(world))
    learning(folder)
    with pytest.raises(OtherRun, match=r"began otherwise \(scenario was .*; name another --out") as refused:
        folder.is_refitted(beginning(world))
    assert "\n" not in str(refused.value)
    folder.begin_refit()
    with pytest.raises(OtherRun, match="it has no whole refit"):
        folder.is_refitted(beginning(world))


def test_another_seed_is_another_run(world: Path) -> None:
    with pytest.raises(OtherRun, match="seed was 0, now 7"):
        learning(refitted(world)).is_refitted(beginning(world, seed=7))
