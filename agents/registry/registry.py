"""The versions of a policy in one folder: which there are, what was found of them, which one decides.

    REGISTRY/
      state.json                      who decides, who is on trial, and the move that led there
      history.jsonl                   every move, and what was added and found; only ever appended to
      versions/VERSION/checkpoint/    a checkpoint, never changed
      versions/VERSION/evidence/      what each gate found of it, a JSON file each
      .lock, .staging/                of whoever writes

A version is called by a hash over its files, so what it names cannot change unnoticed; it is computed again whenever a
version is loaded. Everything that is written gets its name only when it is whole and on the disk. Whoever moves the state
holds the lock and says which version they found deciding: if another one does by then, nothing happens (`Conflict`).
Readers need no lock.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from ... import __version__
from ..checkpoint import CARD, Checkpoint, CheckpointError, file_hash, load_checkpoint
from .durable import PATIENCE_S, append_line, locked, sync_folder, write_whole
from .evidence import BEFORE_TRIAL, CANARY, GATES, Evidence, Verdict, read_evidence, wanting
from .probing import probe
from .state import (
    ADDED,
    ENDED,
    EVIDENCE,
    FOUNDED,
    PROMOTED,
    ROLLED_BACK,
    TRIAL,
    VERSION_DIGITS,
    Event,
    State,
    is_version,
    predecessor,
    read_events,
    read_state,
    with_last,
    withdrawn,
)

_LOG: Final = logging.getLogger(__name__)
STATE, HISTORY, VERSIONS, LOCK, STAGING = "state.json", "history.jsonl", "versions", ".lock", ".staging"
CHECKPOINT, EVIDENCE_FOLDER = "checkpoint", "evidence"
MAX_VERSION_BYTES: Final = 512 << 20
"""Of all files of a checkpoint; one of ours has some hundred kilobytes."""


class RegistryError(CheckpointError):
    """The registry, or a version of it, is not there or not whole."""


class Conflict(RegistryError):
    """Another version decides, or is on trial, than whoever wanted to move the state had seen."""


class NoEvidence(RegistryError):
    """A candidate has not passed its gates; the message says which."""


@dataclass(frozen=True)
class Version:
    """One version, as it is listed."""

    version: str
    name: str
    """What its card calls it."""
    evidence: dict[str, Evidence]
    """By gate, as far as it met them."""
    broken: str = ""
    """Why it cannot be loaded; empty if it can."""


class Registry:
    """A folder of versions. Any number of processes may read and write it."""

    def __init__(self, folder: Path | str, patience_s: float = PATIENCE_S) -> None:
        """Opens a registry.

        Args:
            folder: of the registry.
            patience_s: how long a write waits for another writer's; then it is `durable.Busy`.

        Raises:
            RegistryError: there is none.
        """
        self.folder, self._patience_s = Path(folder).absolute(), patience_s
        if not (self.folder / STATE).is_file():
            raise RegistryError(
                f"{self.folder}: no policy registry there; `poolpilot policies init --registry {self.folder} CHECKPOINT`"
                " begins one with what decides today"
            )

    @classmethod
    def found(cls, folder: Path | str, checkpoint: str | Path) -> Self:
        """Begin a registry with the checkpoint that decides today: the first incumbent, which nothing is compared with.

        Raises:
            RegistryError: there is one already.
            CheckpointError: the checkpoint cannot be used.
            OSError: the folder cannot be written.
        """
        path = Path(folder).absolute()
        path.mkdir(parents=True, exist_ok=True)
        with locked(path / LOCK):
            if (path / STATE).exists():
                raise RegistryError(f"{path}: there is a registry already; `poolpilot policies add` adds a version")
            (path / HISTORY).unlink(missing_ok=True)  # of a beginning that was cut off
            version = _staged(path, load_checkpoint(checkpoint))
            event = Event(FOUNDED, version, _now(), 1, reason="the first version", by=_who())
            write_whole(path / STATE, State(1, version, "", event).text())
            append_line(path / HISTORY, event.line())
        return cls(path)

    # Reading

    def state(self) -> State:
        """Who decides and who is on trial.

        Raises:
            RegistryError: the file is gone.
            StateError: it is something else.
        """
        state = read_state(self.folder / STATE)
        if state is None:
            raise RegistryError(f"{self.folder}: no {STATE} any more")
        return state

    def incumbent(self) -> str:
        """The version that decides; raises as `state`."""
        return self.state().incumbent

    def history(self) -> list[Event]:
        """Everything that happened, oldest first; raises as `state`."""
        return with_last(read_events(self.folder / HISTORY), self.state())

    def versions(self) -> list[Version]:
        """All of them, in the order in which they came."""
        order = {e.version: n for n, e in reversed([*enumerate(self.history())])}
        names = [own.name for own in (self.folder / VERSIONS).iterdir() if is_version(own.name)]
        return [self.version(name) for name in sorted(names, key=lambda name: (order.get(name, len(order)), name))]

    def version(self, version: str) -> Version:
        """One of them, as it is listed: also if it is broken. RegistryError if there is none of the name."""
        evidence = self.evidence(version)
        try:
            return Version(version, self.checkpoint(version).name, evidence)
        except CheckpointError as error:
            return Version(version, "", evidence, str(error))

    def checkpoint(self, version: str) -> Checkpoint:
        """A version's files, after a look whether they are still the ones that it is named by.

        Raises:
            RegistryError: there is no such version, or its files are others.
            CheckpointError: they cannot be used.
        """
        checkpoint = load_checkpoint(self._folder_of(version) / CHECKPOINT)
        seen = version_of(checkpoint)
        if seen != version:
            raise RegistryError(
                f"{checkpoint.folder}: its files make version {seen}; they were changed, wanted {version}"
            )
        return replace(checkpoint, version=version)

    def evidence(self, version: str) -> dict[str, Evidence]:
        """What was found of a version, by gate.

        Raises:
            RegistryError: there is no such version.
            EvidenceError: a file is something else.
        """
        folder = self._folder_of(version) / EVIDENCE_FOLDER
        return {gate: read_evidence(path) for gate in GATES if (path := folder / f"{gate}.json").is_file()}

    def full_name(self, beginning: str) -> str:
        """The version that begins so; RegistryError if none does, or several."""
        names = [own.name for own in (self.folder / VERSIONS).iterdir() if is_version(own.name)]
        fit = [name for name in sorted(names) if beginning and name.startswith(beginning)]
        if len(fit) != 1:
            known = f"{', '.join(fit)} begin so" if fit else f"there are {', '.join(sorted(names))}"
            raise RegistryError(f"{self.folder}: version {beginning!r}: {known}; wanted one of them")
        return fit[0]

    # Writing

    def add(self, checkpoint: str | Path) -> str:
        """Take in a copy of a checkpoint's folder; the version it is. Adding the same files again changes nothing.

        Raises:
            CheckpointError: it is not whole, or answers with numbers that no policy should (`probing`).
            OSError: no room. The registry is as it was.
        """
        loaded = load_checkpoint(checkpoint)
        with self._locked() as state:
            known = self._known(version_of(loaded))
            version = _staged(self.folder, loaded)
            if not known:
                self._append(Event(ADDED, version, _now(), state.generation, reason=str(checkpoint), by=_who()))
        return version

    def keep(self, evidence: Evidence) -> Path:
        """Write down what a gate found, beside the candidate, in place of what it found before; the history tells of both.

        Raises:
            RegistryError: there is no such version.
            OSError: no room.
        """
        stamped = replace(evidence, made_at=evidence.made_at or _now(), poolpilot=evidence.poolpilot or __version__)
        if stamped.gate not in GATES:
            raise ValueError(f"gate {stamped.gate!r}, wanted one of {', '.join(GATES)}")
        with self._locked() as state:
            path = self._folder_of(stamped.candidate) / EVIDENCE_FOLDER / f"{stamped.gate}.json"
            write_whole(path, stamped.text())
            said = f"{stamped.gate}: {stamped.verdict}: {stamped.reason}"
            digest = ((stamped.gate, file_hash(path)),)
            self._append(
                Event(EVIDENCE, stamped.candidate, stamped.made_at, state.generation, "", said, False, _who(), digest)
            )
        return path

    def begin_trial(self, version: str, expected_incumbent: str, force: str | None = None) -> State:
        """Have a version tried beside the incumbent; `force` is why it may be without the evidence of the gates before.

        Raises:
            Conflict: another version decides than expected, or another one is on trial.
            NoEvidence: a gate did not let it through, it was rolled back from, or it failed a trial beside this incumbent:
                who is tried until it passes, passes.
            CheckpointError: it cannot be used.
        """
        with self._locked() as state:
            self._as_expected(state, expected_incumbent)
            if state.on_trial and state.on_trial != version:
                raise Conflict(f"{self.folder}: {state.on_trial} is on trial; `poolpilot policies end-trial` ends that")
            digests = self._fit(version, state, BEFORE_TRIAL, force)
            return self._move(state, TRIAL, version, state.incumbent, version, force or "", bool(force), digests)

    def end_trial(self, version: str, reason: str) -> State:
        """Have it tried no more, without promoting it. Conflict if it is not on trial."""
        with self._locked() as state:
            if state.on_trial != version:
                raise Conflict(f"{self.folder}: {version} is not on trial; {state.on_trial or 'nobody'} is")
            return self._move(state, ENDED, version, state.incumbent, "", reason)

    def promote(self, version: str, expected_incumbent: str, force: str | None = None) -> State:
        """Have a version decide from now on.

        Args:
            version: the candidate.
            expected_incumbent: who the evidence is against, and who decides as far as the caller knows.
            force: why it may without the evidence; written down.

        Raises:
            Conflict: another version decides by now.
            NoEvidence: a gate did not let it through, or it was rolled back from.
            CheckpointError: it cannot be used.
            OSError: no room. The incumbent goes on.
        """
        with self._locked() as state:
            self._as_expected(state, expected_incumbent)
            if version == state.incumbent:
                raise RegistryError(f"{self.folder}: {version} decides already")
            digests = self._fit(version, state, GATES, force)
            return self._move(state, PROMOTED, version, version, "", force or "its gates passed", bool(force), digests)

    def rollback(self, reason: str, expected_incumbent: str | None = None, to: str | None = None) -> State:
        """Have the version before decide again, or `to`; whoever is on trial is tried no more.

        Raises:
            Conflict: another version decides by now.
            RegistryError: there is none before.
            CheckpointError: the one to go back to cannot be used.
        """
        with self._locked() as state:
            self._as_expected(state, expected_incumbent or state.incumbent)
            target = to or predecessor(self.history())
            if target is None:
                raise RegistryError(f"{self.folder}: {state.incumbent} is the first version; there is none before it")
            if target == state.incumbent:
                raise RegistryError(f"{self.folder}: {target} decides already")
            self.checkpoint(target)
            return self._move(state, ROLLED_BACK, target, target, "", reason)

    @contextmanager
    def _locked(self) -> Iterator[State]:
        with locked(self.folder / LOCK, self._patience_s):
            state = self.state()
            events = read_events(self.folder / HISTORY)
            if len(with_last(events, state)) > len(events):  # the last one who moved it was stopped half-way
                append_line(self.folder / HISTORY, state.event.line())
            yield state

    def _move(
        self,
        state: State,
        kind: str,
        version: str,
        incumbent: str,
        on_trial: str,
        reason: str,
        forced: bool = False,
        digests: tuple[tuple[str, str], ...] = (),
    ) -> State:
        generation = state.generation + 1
        event = Event(kind, version, _now(), generation, state.incumbent, reason, forced, _who(), digests)
        moved = State(generation, incumbent, on_trial, event)
        write_whole(self.folder / STATE, moved.text())
        self._append(event)
        return moved

    def _append(self, event: Event) -> None:
        """Moves are in the state too, and added later if there is no room now; what else is not told is not lost."""
        try:
            append_line(self.folder / HISTORY, event.line())
        except OSError as error:
            _LOG.warning("%s: %s of %s is not in it: %s", self.folder / HISTORY, event.kind, event.version, error)

    def _as_expected(self, state: State, expected: str) -> None:
        if state.incumbent != expected:
            raise Conflict(
                f"{self.folder}: {state.incumbent} decides now, not {expected}: what was found against {expected} says"
                " nothing of it; run the gates again"
            )

    def _fit(
        self, version: str, state: State, gates: tuple[str, ...], force: str | None
    ) -> tuple[tuple[str, str], ...]:
        """Hashes of a candidate's evidence, after a look at it and at its files."""
        self.checkpoint(version)
        found = self.evidence(version)
        if not force:
            lacks = wanting(found, version, state.incumbent, gates)
            before = withdrawn(self.history()).get(version)
            if before is not None:
                lacks.append(f"it was rolled back from at {before.at}: {before.reason}")
            trial = found.get(CANARY)
            if CANARY not in gates and trial is not None and trial.verdict is Verdict.FAIL:
                lacks += (
                    wanting(found, version, state.incumbent, (CANARY,)) if trial.incumbent == state.incumbent else []
                )
            if lacks:
                raise NoEvidence(f"{version}: {'; '.join(lacks)}")
        folder = self._folder_of(version) / EVIDENCE_FOLDER
        return tuple((gate, file_hash(folder / f"{gate}.json")) for gate in found)

    def _known(self, version: str) -> bool:
        return (self.folder / VERSIONS / version).is_dir()

    def _folder_of(self, version: str) -> Path:
        if not is_version(version) or not self._known(version):
            raise RegistryError(f"{self.folder}: no version {version[:60]!r} there")
        return self.folder / VERSIONS / version


def version_of(checkpoint: Checkpoint) -> str:
    """What a checkpoint is called in a registry: a hash over the hashes of all its files, its card included."""
    files = {**checkpoint.card["files"], CARD: file_hash(checkpoint.folder / CARD)}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:VERSION_DIGITS]


def _staged(registry: Path, checkpoint: Checkpoint) -> str:
    """Copy a checkpoint into a registry whose lock is held; what carries a version's name was whole on the disk before.

    What is checked is the copy: the original may change meanwhile.
    """
    staging = registry / STAGING
    if staging.exists():
        shutil.rmtree(staging)  # the lock is ours: whoever left it was stopped half-way
    (staging / CHECKPOINT).mkdir(parents=True)
    (staging / EVIDENCE_FOLDER).mkdir()
    try:
        names = [*checkpoint.card["files"], CARD]
        if sum((checkpoint.folder / name).stat().st_size for name in names) > MAX_VERSION_BYTES:
            raise RegistryError(f"{checkpoint.folder}: more than {MAX_VERSION_BYTES >> 20} MiB, wanted a checkpoint")
        for name in names:
            copied = staging / CHECKPOINT / name
            shutil.copyfile(checkpoint.folder / name, copied)
            copied.chmod(0o444)
            with copied.open("rb") as file:
                os.fsync(file.fileno())
        copy_of = load_checkpoint(staging / CHECKPOINT)
        probe(copy_of)
        version = version_of(copy_of)
        for folder in (staging / CHECKPOINT, staging):
            sync_folder(folder)
        place = registry / VERSIONS / version
        place.parent.mkdir(exist_ok=True)
        if not place.exists():
            staging.rename(place)
            sync_folder(place.parent)
        return version
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _who() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
