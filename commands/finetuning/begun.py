"""What the folder of a `finetune run` holds: of which record and beliefs its refit is, and how far learning has come."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ...training.finetuning.learned_from import fingerprint
from ...training.finetuning.writing import SCENARIO
from ...training.run_files import resumable

REFITTED: Final = "refitted.json"
"""What the refit beside it was made of; there once the refit is whole."""


class OtherRun(ValueError):
    """The folder holds a run that began with something else; the message is one line."""


@dataclass(frozen=True)
class Beginning:
    """What a run begins with. A record is told by where it lies: that of a sidecar grows at every tick."""

    record: tuple[str, ...]
    scenario: str
    """Its shipped name, or where its file lies and the file's fingerprint."""
    access_log: str
    """Where it lies, or nothing."""
    seed: int

    @classmethod
    def of(cls, record: tuple[Path, ...], scenario: str, access_log: Path | None, seed: int) -> Beginning:
        """As the command is given it."""
        path = Path(scenario)
        beliefs = f"{path.resolve()} {fingerprint(path)}" if path.is_file() else scenario
        return cls(
            tuple(str(own.resolve()) for own in record),
            beliefs,
            str(access_log.resolve()) if access_log else "",
            seed,
        )

    def differs_from(self, before: dict[str, Any]) -> str:
        """In a few words; nothing if it is the same."""
        for name, now in json.loads(json.dumps(asdict(self))).items():
            if before.get(name) != now:
                return f"{name} was {before.get(name)!r}, now {now!r}"
        return ""


@dataclass(frozen=True)
class Folder:
    """The folder of a run."""

    path: Path

    @property
    def refit(self) -> Path:
        """The refit's."""
        return self.path / "refit"

    @property
    def learned(self) -> Path:
        """The learner's."""
        return self.path / "learned"

    @property
    def twin(self) -> Path:
        """The refitted scenario."""
        return self.refit / SCENARIO

    @property
    def learning_began(self) -> bool:
        """Whether there is something to resume."""
        return resumable(self.learned)

    def is_refitted(self, beginning: Beginning) -> bool:
        """Whether the refit there is whole, and of this beginning.

        Raises:
            OtherRun: it is of another one, and was learned in.
        """
        try:
            kept: Any = json.loads((self.refit / REFITTED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = None
        other = beginning.differs_from(kept) if isinstance(kept, dict) else "it has no whole refit"
        if other and self.learning_began:
            raise OtherRun(f"{self.path}: what is learned there began otherwise ({other}); name another --out")
        return not other and self.twin.is_file()

    def begin_refit(self) -> None:
        """From now on, until `note_refitted`, there is no whole one."""
        (self.refit / REFITTED).unlink(missing_ok=True)

    def note_refitted(self, beginning: Beginning) -> None:
        """It is whole."""
        part = self.refit / f"{REFITTED}.part"
        part.write_text(json.dumps(asdict(beginning)) + "\n", encoding="utf-8")
        part.replace(self.refit / REFITTED)
