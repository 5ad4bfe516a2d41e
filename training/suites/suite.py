"""A suite file: YAML that names scenarios by path, by shipped name, or as random clusters by seed.

```yaml
schema: 1
name: mine
summary: My two clusters on a usual and on a bad day.
scenarios:
  - path: usual-day.yaml            # beside the suite file
  - {path: azure.yaml, needs: data} # files that it names lie in the data folder; skipped where they don't
  - scenario: spot-storm            # shipped
  - random: {seed: 7, difficulty: 0.5}
```

Every mistake is one line that names the file, the field, the value and what would be right.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from ...env.one_line import first_problem, one_line, shown
from ...env.plain_yaml import PlainYamlError, plain_yaml
from ...env.scenario import MAX_FILE_BYTES, Scenario, ScenarioError, load_scenario, shipped_scenarios
from ...env.scenario.fields import Strict
from ...env.workload.spec import MixSpec, ServegenSpec, TraceSpec
from ..clusters import random_scenario

SHIPPED: Final = Path(__file__).parent
DATA_VARIABLE: Final = "POOLPILOT_DATA"
MOST_SCENARIOS: Final = 200


class SuiteError(ValueError):
    """A suite cannot be used; the message is one line."""


class RandomCluster(Strict):
    """A cluster drawn at random (`training.clusters`)."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Below 2^32: training draws seeds from there on, so that no suite is ever trained on."""
    difficulty: Annotated[float, Field(ge=0, le=1)] = 1.0


class Entry(Strict):
    """One scenario of a suite: exactly one of `path`, `scenario` and `random`."""

    path: Path | None = None
    """A scenario file; a relative path starts at the suite file's folder."""
    scenario: str | None = None
    """The name of a shipped scenario."""
    random: RandomCluster | None = None
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] | None = None
    """Instead of the scenario's own name: names in a suite are unique."""
    needs: Literal["data"] | None = None
    """Relative paths of traces, prices and machines in the scenario file start at the data folder instead of the file's
    own. Without the folder, or without one of the files, the scenario is skipped."""

    @model_validator(mode="after")
    def _one(self) -> Entry:
        given = [name for name in ("path", "scenario", "random") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"wanted one of path, scenario and random, got {' and '.join(given) or 'none'}")
        if self.needs and self.path is None:
            raise ValueError("needs: only with a path")
        return self

    @property
    def label(self) -> str:
        """What it is called before it is read."""
        if self.name is not None:
            return self.name
        if self.path is not None:
            return one_line(self.path.stem)
        return self.scenario if self.random is None and self.scenario is not None else f"random-{self._seed}"

    @property
    def _seed(self) -> int:
        assert self.random is not None
        return self.random.seed


class SuiteFile(Strict):
    """A suite as written."""

    schema_version: Literal[1] = Field(alias="schema")
    """Version of this format."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Lower case, digits and hyphens."""
    summary: str
    """One line for lists."""
    scenarios: Annotated[tuple[Entry, ...], Field(min_length=1, max_length=MOST_SCENARIOS)]


class Skipped(NamedTuple):
    """A scenario that could not be had here."""

    name: str
    why: str


@dataclass(frozen=True)
class Suite:
    """A suite that was read."""

    name: str
    summary: str
    scenarios: tuple[Scenario, ...]
    """In the order of the file; their names are unique."""
    skipped: tuple[Skipped, ...]
    """Those whose data is not here."""


def shipped_suites() -> dict[str, Path]:
    """The suites that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def data_folder(data: Path | None = None) -> Path:
    """Where traces lie: `data`, else what POOLPILOT_DATA says, else `shared/data` beside the checkout; it need not be
    there."""
    named = os.environ.get(DATA_VARIABLE)
    return data or (Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data")


def load_suite(name_or_path: str | Path, data: Path | None = None) -> Suite:
    """A shipped suite by name, or any by path.

    Args:
        data: the data folder, as for `data_folder`.

    Raises:
        SuiteError: the suite file cannot be used.
        ScenarioError: a scenario that it names cannot be used.
    """
    path = shipped_suites().get(str(name_or_path), Path(name_or_path))
    file = _read(path, name_or_path)
    folder = data_folder(data)
    scenarios: dict[str, Scenario] = {}
    skipped: list[Skipped] = []
    for i, entry in enumerate(file.scenarios):
        found = _scenario(entry, path, i, folder)
        if isinstance(found, Skipped):
            skipped.append(found)
        elif found.name in scenarios:
            raise _problem(path, f"scenarios.{i}: {found.name!r} is in the suite already; wanted another `name`")
        else:
            scenarios[found.name] = found
    return Suite(file.name, file.summary, tuple(scenarios.values()), tuple(skipped))


def _read(path: Path, name: str | Path) -> SuiteFile:
    try:
        if not path.is_file():
            known = ", ".join(shipped_suites())
            raise _problem(name, f"no such file and no shipped suite; shipped are {known}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _problem(path, f"larger than {MAX_FILE_BYTES} bytes, wanted a suite")
        document = plain_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _problem(name, f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise _problem(path, f"not readable as YAML: {error}") from None
    except PlainYamlError as error:
        raise _problem(path, str(error)) from None
    if not isinstance(document, dict):
        raise _problem(path, f"{shown(document)}: wanted a mapping with schema, name, summary, scenarios")
    try:
        return SuiteFile.model_validate(document)
    except ValidationError as error:
        raise _problem(path, first_problem(error)) from None


def _scenario(entry: Entry, suite: Path, i: int, data: Path) -> Scenario | Skipped:
    if entry.random is not None:
        found = random_scenario(entry.random.seed, entry.random.difficulty)
    elif entry.scenario is not None:
        if entry.scenario not in shipped_scenarios():
            known = ", ".join(shipped_scenarios())
            raise _problem(suite, f"scenarios.{i}.scenario: {shown(entry.scenario)}: wanted one of {known}")
        found = load_scenario(entry.scenario)
    else:
        assert entry.path is not None
        path = suite.parent / entry.path
        if not _is_there(path, Path.is_file):
            raise _problem(suite, f"scenarios.{i}.path: {shown(str(entry.path))}: no such file")
        found = load_scenario(path)
        if entry.needs == "data":
            if not data.is_dir():
                return Skipped(entry.label, f"no data folder at {data}; say where it is by --data or {DATA_VARIABLE}")
            found = found.model_copy(update={"base_dir": data})
        missing = next((file for file in _files(found) if not _is_there(found.base_dir / file, Path.exists)), None)
        if missing is not None and entry.needs == "data":
            return Skipped(entry.label, one_line(f"no {missing} in the data folder {data}"))
        if missing is not None:
            raise ScenarioError(one_line(f"{path}: {missing}: no such file; with `needs: data` it may lie elsewhere"))
    return found if entry.name is None else found.model_copy(update={"name": entry.name})


def _is_there(path: Path, test: Callable[[Path], bool]) -> bool:
    """Not there is also what no file can be called: too long, or with a zero byte."""
    try:
        return test(path)
    except (OSError, ValueError):
        return False


def _files(scenario: Scenario) -> Iterator[Path]:
    """Those that the scenario names: traces, prices, machines, measured laws."""
    workload = scenario.workload
    for part in workload.parts if isinstance(workload, MixSpec) else (workload,):
        if isinstance(part, TraceSpec | ServegenSpec):
            yield part.path
        if isinstance(part, ServegenSpec) and part.lengths is not None:
            yield part.lengths
    for pool in scenario.pools.values():
        moves: tuple[Any, ...] = (pool.price.series, None if pool.spot is None else pool.spot.availability)
        yield from (own.path for own in moves if own is not None and own.path is not None)
        if pool.law is not None:
            yield pool.law


def _problem(path: str | Path, message: str) -> SuiteError:
    return SuiteError(one_line(f"{path}: {message}"))
