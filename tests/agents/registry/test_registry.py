"""Versions are what their files are, one decides, and nobody moves that behind another one's back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from poolpilot.agents.checkpoint import CARD, ONNX, CheckpointError, load_checkpoint
from poolpilot.agents.portfolio import policy_factory
from poolpilot.agents.registry import (
    BEFORE_TRIAL,
    CANARY,
    GATES,
    OFF_POLICY,
    TWIN,
    Conflict,
    Evidence,
    NoEvidence,
    ProbeError,
    Registry,
    RegistryError,
    StateError,
    Verdict,
    name_of_version,
    open_checkpoint,
)
from poolpilot.agents.registry.durable import Busy, locked
from poolpilot.env.scenario import load_scenario

from .candidates import a_checkpoint, let_through


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """With one version, which decides."""
    return Registry.found(tmp_path / "registry", a_checkpoint(tmp_path / "first", name="first"))


@pytest.fixture
def candidate(registry: Registry, tmp_path: Path) -> str:
    return registry.add(a_checkpoint(tmp_path / "second", name="second", pool_output=(0.1, 0.0, 0.0, 0.0)))


# Versions


def test_the_first_version_decides(registry: Registry) -> None:
    [only] = registry.versions()
    assert (only.version, only.name, only.broken) == (registry.incumbent(), "first", "")
    assert [(e.kind, e.version) for e in registry.history()] == [("founded", only.version)]


def test_a_registry_is_begun_once(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="there is a registry already"):
        Registry.found(registry.folder, tmp_path / "first")
    with pytest.raises(RegistryError, match="no policy registry there"):
        Registry(tmp_path / "elsewhere")


def test_the_same_files_are_the_same_version_and_others_are_another(registry: Registry, tmp_path: Path) -> None:
    copied = shutil.copytree(tmp_path / "first", tmp_path / "copy")
    assert registry.add(copied) == registry.incumbent()
    assert len(registry.versions()) == 1
    dearer = a_checkpoint(tmp_path / "dearer", name="first", card={"miss_price": 0.6})
    assert registry.add(dearer) != registry.incumbent()
    assert [own.name for own in registry.versions()] == ["first", "first"]


def test_a_version_is_whatever_it_was_when_it_was_added(registry: Registry, candidate: str, tmp_path: Path) -> None:
    (tmp_path / "second" / ONNX).write_bytes(b"changed since")
    assert registry.checkpoint(candidate).name == "second"


@pytest.mark.parametrize("file", [ONNX, CARD])
def test_a_version_whose_files_were_changed_is_refused_and_listed_as_broken(
    registry: Registry, candidate: str, tmp_path: Path, file: str
) -> None:
    path = registry.folder / "versions" / candidate / "checkpoint" / file
    path.chmod(0o644)
    if file == CARD:  # in itself in order, but another one
        path.write_text(json.dumps({**json.loads(path.read_text()), "miss_price": 0.9}))
    else:
        path.write_bytes(b"network")
    with pytest.raises(CheckpointError, match=str(path.parent)):
        registry.checkpoint(candidate)
    let_through(registry, candidate)
    with pytest.raises(CheckpointError, match=str(path.parent)):
        registry.promote(candidate, registry.incumbent(), force="at any price")
    assert [bool(own.broken) for own in registry.versions()] == [False, True]


def test_decisions_carry_the_version_as_their_policys_hash(registry: Registry, candidate: str) -> None:
    cluster = load_scenario("mixed-chat").cluster()
    for name, version in (
        (f"registry:{registry.folder}", registry.incumbent()),
        (name_of_version(registry, candidate), candidate),
        (f"registry:{registry.folder}@{candidate[:6]}", candidate),
    ):
        assert getattr(policy_factory(name)(cluster), "policy_hash", "") == version
    assert open_checkpoint("steady-hand").name == "steady-hand"
    with pytest.raises(RegistryError, match="wanted one of them"):
        open_checkpoint(f"registry:{registry.folder}@0123")


# Poison


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"pool_output": (float("nan"), 0.0, 0.0, 0.0)}, "pool_output is nan on an ordinary observation"),
        ({"class_output": (float("inf"), 0.0)}, "class_output is inf on an ordinary observation"),
        ({"whole_output": (1e6, -1e6, 3e4)}, r"100% of whole_output lie beyond \[-1, 1\], up to 1e\+06"),
        ({"pool_output": (0.0, 0.0, 0.0)}, r"pool_output has shape \(64, 1, 3\), wanted \(64, 1, 4\)"),
    ],
    ids=["NaN", "infinite", "absurd scale", "another shape"],
)
def test_a_poisoned_network_in_whole_files_never_becomes_a_version(
    registry: Registry, tmp_path: Path, outputs: dict[str, Sequence[float]], said: str
) -> None:
    poisoned = a_checkpoint(tmp_path / "poisoned", **outputs)  # type: ignore[arg-type]
    load_checkpoint(poisoned)  # its hashes are in order
    with pytest.raises(ProbeError, match=said):
        registry.add(poisoned)
    assert len(registry.versions()) == 1
    assert not (registry.folder / ".staging").exists()


def test_a_checkpoint_of_wrong_hashes_never_becomes_a_version(registry: Registry, tmp_path: Path) -> None:
    spoilt = a_checkpoint(tmp_path / "spoilt")
    with (spoilt / ONNX).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match="the file was changed or cut short"):
        registry.add(spoilt)
    assert len(registry.versions()) == 1


# Promotion


def test_a_candidate_with_all_its_evidence_is_promoted_and_the_evidence_is_named(
    registry: Registry, candidate: str
) -> None:
    let_through(registry, candidate)
    before = registry.incumbent()
    state = registry.promote(candidate, before)
    assert (state.incumbent, state.generation, registry.incumbent()) == (candidate, 2, candidate)
    last = registry.history()[-1]
    assert (last.kind, last.before, last.forced, dict(last.evidence).keys()) == ("promoted", before, False, set(GATES))


@pytest.mark.parametrize("lacking", GATES)
def test_every_gate_can_hold_a_candidate_back(registry: Registry, candidate: str, lacking: str) -> None:
    let_through(registry, candidate, [gate for gate in GATES if gate != lacking])
    with pytest.raises(NoEvidence, match=f"{lacking}: no evidence"):
        registry.promote(candidate, registry.incumbent())
    for verdict in (Verdict.FAIL, Verdict.RUNNING):
        registry.keep(Evidence(lacking, candidate, registry.incumbent(), verdict, "far too dear"))
        with pytest.raises(NoEvidence, match=f"{lacking}: {verdict}: far too dear"):
            registry.promote(candidate, registry.incumbent())
    assert registry.incumbent() != candidate


def test_only_a_log_without_exploration_may_tell_nothing(registry: Registry, candidate: str) -> None:
    let_through(registry, candidate)
    registry.keep(Evidence(TWIN, candidate, registry.incumbent(), Verdict.UNKNOWN, "two days"))
    with pytest.raises(NoEvidence, match="twin: cannot tell: two days"):
        registry.promote(candidate, registry.incumbent())
    let_through(registry, candidate, [TWIN])
    registry.keep(Evidence(OFF_POLICY, candidate, registry.incumbent(), Verdict.UNKNOWN, "no overlap"))
    assert registry.promote(candidate, registry.incumbent()).incumbent == candidate


def test_force_promotes_without_evidence_and_is_written_down(registry: Registry, candidate: str) -> None:
    registry.promote(candidate, registry.incumbent(), force="the other one melts GPUs")
    last = registry.history()[-1]
    assert (last.forced, last.reason) == (True, "the other one melts GPUs")


def test_two_learners_cannot_promote_over_each_other(registry: Registry, candidate: str, tmp_path: Path) -> None:
    other = registry.add(a_checkpoint(tmp_path / "third", name="third", pool_output=(0.2, 0.0, 0.0, 0.0)))
    seen = registry.incumbent()
    for version in (candidate, other):
        let_through(registry, version)
    registry.promote(candidate, seen)
    with pytest.raises(Conflict, match=f"{candidate} decides now, not {seen}"):
        registry.promote(other, seen)
    # Against the new one it has proved nothing.
    with pytest.raises(NoEvidence, match=f"measured against {seen}, and {candidate} decides now"):
        registry.promote(other, candidate)
    assert registry.incumbent() == candidate


def test_of_processes_that_promote_at_once_one_does(registry: Registry, tmp_path: Path) -> None:
    seen = registry.incumbent()
    rivals = [
        registry.add(a_checkpoint(tmp_path / f"rival-{n}", pool_output=(0.1 * n, 0.0, 0.0, 0.0))) for n in range(1, 5)
    ]
    for version in rivals:
        let_through(registry, version)

    def promote(version: str) -> int:
        try:
            Registry(registry.folder).promote(version, seen)
        except Conflict:
            return 1
        return 0

    children = [in_child(lambda v=version: promote(v)) for version in rivals]  # type: ignore[misc]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0, 1, 1, 1]
    assert registry.incumbent() == rivals[codes.index(0)]
    assert [e.kind for e in registry.history()].count("promoted") == 1


# Rollback


def test_a_rollback_goes_back_to_the_version_before_and_then_further(registry: Registry, tmp_path: Path) -> None:
    names = [registry.incumbent()]
    for n in range(1, 3):
        names.append(registry.add(a_checkpoint(tmp_path / f"next-{n}", pool_output=(0.1 * n, 0.0, 0.0, 0.0))))
        registry.promote(names[-1], registry.incumbent(), force="go")
    assert registry.rollback("too slow").incumbent == names[1]
    assert registry.rollback("so is that").incumbent == names[0]
    with pytest.raises(RegistryError, match="is the first version; there is none before it"):
        registry.rollback("and that")
    assert [e.reason for e in registry.history() if e.kind == "rolled back"] == ["too slow", "so is that"]


def test_what_was_rolled_back_from_is_not_promoted_again_without_force(registry: Registry, candidate: str) -> None:
    let_through(registry, candidate)
    first = registry.incumbent()
    registry.promote(candidate, first)
    registry.rollback("chat met 80 % of its targets", candidate)
    with pytest.raises(NoEvidence, match=r"it was rolled back from at .*: chat met 80 % of its targets"):
        registry.promote(candidate, first)
    assert registry.promote(candidate, first, force="the load test was at fault").incumbent == candidate


def test_a_rollback_of_somebody_elses_promotion_is_a_conflict(registry: Registry, candidate: str) -> None:
    first = registry.incumbent()
    registry.promote(candidate, first, force="go")
    with pytest.raises(Conflict):
        registry.rollback("slow", expected_incumbent=first)
    assert registry.rollback("slow", expected_incumbent=candidate, to=first).incumbent == first


# Trials


def test_a_trial_needs_the_gates_before_it_and_ends_with_a_promotion(registry: Registry, candidate: str) -> None:
    first = registry.incumbent()
    with pytest.raises(NoEvidence, match="twin: no evidence"):
        registry.begin_trial(candidate, first)
    let_through(registry, candidate, BEFORE_TRIAL)
    assert registry.begin_trial(candidate, first).on_trial == candidate
    assert registry.incumbent() == first
    let_through(registry, candidate, [CANARY])
    assert registry.promote(candidate, first).on_trial == ""


def test_what_failed_a_trial_is_not_tried_again_beside_the_same_incumbent(
    registry: Registry, candidate: str, tmp_path: Path
) -> None:
    first = registry.incumbent()
    let_through(registry, candidate, BEFORE_TRIAL)
    registry.keep(Evidence(CANARY, candidate, first, Verdict.FAIL, "dearer by 8 %"))
    with pytest.raises(NoEvidence, match="canary: fail: dearer by 8 %"):
        registry.begin_trial(candidate, first)
    registry.begin_trial(candidate, first, force="the price feed was wrong")
    registry.end_trial(candidate, "enough")
    other = registry.add(a_checkpoint(tmp_path / "third", pool_output=(0.2, 0.0, 0.0, 0.0)))
    registry.promote(other, first, force="go")
    let_through(registry, candidate, BEFORE_TRIAL)
    assert registry.begin_trial(candidate, other).on_trial == candidate


def test_one_version_is_on_trial_at_a_time(registry: Registry, candidate: str, tmp_path: Path) -> None:
    other = registry.add(a_checkpoint(tmp_path / "third", pool_output=(0.2, 0.0, 0.0, 0.0)))
    registry.begin_trial(candidate, registry.incumbent(), force="try")
    with pytest.raises(Conflict, match=f"{candidate} is on trial"):
        registry.begin_trial(other, registry.incumbent(), force="try")
    with pytest.raises(Conflict, match=f"{other} is not on trial"):
        registry.end_trial(other, "enough")
    assert registry.end_trial(candidate, "enough").on_trial == ""


# Whatever stops half-way


def in_child(work: Callable[[], int]) -> int:
    """Run `work` in a process of its own; its number."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return child


def steps(monkeypatch: pytest.MonkeyPatch, at: int, stop: Callable[[], None]) -> None:
    """Have `stop` called before step `at` of those that touch the disk."""
    left = [at]

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **named: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                stop()
            return real(*arguments, **named)

        return step

    monkeypatch.setattr(shutil, "copyfile", counted(shutil.copyfile))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    for name in ("replace", "rename", "mkdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))


def whole(registry: Registry, known: set[str]) -> None:
    """Every version can be loaded, and one of `known` decides; nothing is in the way of the next writer."""
    assert all(not own.broken for own in registry.versions())
    assert registry.incumbent() in known
    assert registry.history()[-1].generation == registry.state().generation


@pytest.mark.parametrize("what", ["add", "promote", "rollback"])
def test_a_learner_killed_at_any_step_leaves_all_of_it_or_nothing(
    registry: Registry, candidate: str, tmp_path: Path, what: str
) -> None:
    third = a_checkpoint(tmp_path / "third", pool_output=(0.2, 0.0, 0.0, 0.0))
    first = registry.incumbent()
    if what == "rollback":
        registry.promote(candidate, first, force="go")
    before = registry.incumbent()

    def work(at: int) -> int:
        with pytest.MonkeyPatch.context() as patched:
            steps(patched, at, lambda: os._exit(9))
            own = Registry(registry.folder)
            if what == "add":
                own.add(third)
            elif what == "promote":
                own.promote(candidate, before, force="go")
            else:
                own.rollback("slow")
        return 0

    kept = shutil.copytree(registry.folder, tmp_path / "kept")
    for at in range(40):
        child = in_child(lambda n=at: work(n))  # type: ignore[misc]
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        whole(registry, {first, candidate})
        if code == 0:
            assert at > 3  # it was stopped at some steps before
            break
        # The next one finds nothing in its way.
        if what == "add":
            assert registry.checkpoint(registry.add(third)).name == "candidate"
        elif registry.incumbent() == before:
            (registry.promote(candidate, before, force="go") if what == "promote" else registry.rollback("slow"))
        whole(registry, {first, candidate})
        kinds = [e.kind for e in registry.history() if e.kind in ("promoted", "rolled back")]
        assert len(kinds) == {"add": 0, "promote": 1, "rollback": 2}[what]
        shutil.rmtree(registry.folder)
        shutil.copytree(kept, registry.folder)
    else:
        pytest.fail("never got to its end")


@pytest.mark.parametrize("what", ["add", "promote", "keep"])
def test_a_full_disk_changes_nothing_and_says_so(registry: Registry, candidate: str, tmp_path: Path, what: str) -> None:
    third = a_checkpoint(tmp_path / "third", pool_output=(0.2, 0.0, 0.0, 0.0))
    first, versions = registry.incumbent(), len(registry.versions())

    def full() -> None:
        raise OSError(28, "No space left on device")

    for at in range(4):
        with pytest.MonkeyPatch.context() as patched:
            steps(patched, at, full)
            try:
                if what == "add":
                    registry.add(third)
                elif what == "promote":
                    registry.promote(candidate, first, force="go")
                else:
                    registry.keep(Evidence(TWIN, candidate, first, Verdict.PASS, "better"))
            except OSError as error:
                told = error.errno
            else:
                told = None
        assert told in (28, None)
        whole(registry, {first} if told else {first, candidate})
        if told is None:
            break
        assert len(registry.versions()) == versions
    assert not [*registry.folder.rglob("*.part")]


def test_a_move_that_the_history_lacks_is_added_by_the_next_writer(registry: Registry, candidate: str) -> None:
    registry.promote(candidate, registry.incumbent(), force="go")
    path = registry.folder / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])  # the machine stopped in the middle of the line
    assert registry.history()[-1].kind == "promoted"
    registry.rollback("slow")
    assert [e.kind for e in registry.history()][-2:] == ["promoted", "rolled back"]
    assert len(path.read_bytes().splitlines()) == len(lines) + 1


# Strangers' files


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (b"{", "not readable as JSON"),
        (b"[]", "wanted a JSON object"),
        (b'{"kind": "else"}', "kind 'else' format None"),
    ],
)
def test_a_state_that_is_something_else_is_one_line(registry: Registry, change: bytes, said: str) -> None:
    (registry.folder / "state.json").write_bytes(change)
    with pytest.raises(StateError, match=said) as caught:
        registry.state()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("generation", 0, "generation: '0', wanted a whole number above 0"),
        ("incumbent", "../../etc", "incumbent: '../../etc', wanted a version"),
        ("event", {"kind": "promoted"}, "event: wanted an event of a registry"),
    ],
)
def test_a_state_with_a_field_that_cannot_be_names_it(registry: Registry, name: str, value: object, said: str) -> None:
    path = registry.folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(StateError, match=said):
        registry.state()


def test_evidence_comes_back_as_it_was_kept_and_numbers_that_are_none_are_null(
    registry: Registry, candidate: str
) -> None:
    found = Evidence(
        TWIN,
        candidate,
        registry.incumbent(),
        Verdict.PASS,
        "cheaper by 3 %",
        {"bill_ratio": {"mean": 0.97, "low": 0.95, "high": float("nan")}},
        {"record": "ab" * 32},
        made_at="2026-01-01T00:00:00.000+00:00",
        poolpilot="0",
    )
    registry.keep(found)
    expected = replace(found, figures={"bill_ratio": {"mean": 0.97, "low": 0.95, "high": None}})
    assert registry.evidence(candidate) == {TWIN: expected}
    path = registry.folder / "versions" / candidate / "evidence" / "twin.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "verdict": "splendid"}))
    with pytest.raises(CheckpointError, match=r"twin\.json: verdict: 'splendid', wanted one of pass, fail"):
        registry.evidence(candidate)


def test_who_has_no_patience_is_not_held_up_by_a_writer_that_was_stopped(registry: Registry, candidate: str) -> None:
    impatient = Registry(registry.folder, patience_s=0.1)
    with locked(registry.folder / ".lock"), pytest.raises(Busy, match=r"another process has held it for 0\.1 s"):
        impatient.promote(candidate, registry.incumbent(), force="go")
    assert impatient.incumbent() == registry.incumbent() != candidate
