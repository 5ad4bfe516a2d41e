"""What Prometheus is asked, in its own language. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...telemetry.engine_dialects import Dialect

STARTED = "process_start_time_seconds"


def quoted(text: str) -> str:
    """A string of PromQL; nothing in it ends it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def selector(name: str, *selects: Mapping[str, str]) -> str:
    """The series of a metric with these labels; a value that begins with ~ is a regular expression."""
    matchers = [f"__name__={quoted(name)}"]
    for select in selects:
        for label, value in select.items():
            matchers.append(f"{label}=~{quoted(value[1:])}" if value.startswith("~") else f"{label}={quoted(value)}")
    return "{" + ",".join(matchers) + "}"


@dataclass(frozen=True)
class Asking:
    """How the series of some replicas are asked for."""

    dialect: Dialect
    replica_label: str
    """Tells replicas apart, such as `instance` or `pod`."""
    selects: tuple[Mapping[str, str], ...] = ()
    """Of the pool, and of the class."""

    def by_replica(self, names: Sequence[str], together: str = "sum", more: Mapping[str, str] | None = None) -> str:
        """One figure of each replica, all its engines together; of the first of `names` that the replica has."""
        own = [
            f"{together} by ({self.replica_label}) ({self._one_engine(selector(name, *self.selects, more or {}))})"
            for name in names
        ]
        return " or ".join(own)

    def buckets(self, names: Sequence[str], span_s: float) -> str:
        """By `le`, how much all replicas' buckets grew in the last `span_s` seconds."""
        return " or ".join(f"sum by (le) ({self._grown(f'{name}_bucket', span_s)})" for name in names)

    def grown(self, names: Sequence[str], suffix: str, span_s: float) -> str:
        """How much a counter of all replicas grew in the last `span_s` seconds."""
        return " or ".join(f"sum({self._grown(name + suffix, span_s)})" for name in names)

    def _grown(self, name: str, span_s: float) -> str:
        return self._one_engine(f"increase({selector(name, *self.selects)}[{max(round(span_s * 1000), 1)}ms])")

    def _one_engine(self, inside: str) -> str:
        labels = self.dialect.one_engine_labels
        return f"max without ({', '.join(labels)}) ({inside})" if labels else inside
