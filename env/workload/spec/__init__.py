"""What a scenario file says under `workload:`, validated.

```yaml
workload:
  kind: generated
  classes:
    chat:
      rate_per_s: 6
      arrivals: gamma
      cv: 1.5
      shape:
        - {kind: diurnal, period_s: 86400, amplitude: 0.5, peak_at_s: 50400}
        - {kind: bursts, every_s: 1800, duration_s: 120, factor: 3}
      prompt_tokens: {kind: lognormal, mean: 1155, p95: 3300, max: 8000}
      output_tokens: {kind: lognormal, median: 130, sigma: 1.0, max: 1500}
```
or
```yaml
workload:
  kind: trace
  path: traces/azure.csv
  rate_factor: 0.5
  assign:
    - {class: summarisation, min_prompt_tokens: 2000}
    - {class: batch, share: 0.1}
    - {class: chat}
```
or
```yaml
workload:
  kind: mix
  parts:
    - kind: generated
      classes:
        chat:
          kind: sessions
          sessions_per_s: 0.2
          turns_mean: 4
          think_s: 60
          message_tokens: {kind: lognormal, median: 60, sigma: 1.0, max: 2000}
          output_tokens: {kind: lognormal, median: 180, sigma: 0.7, max: 1500}
          shared_prefix: {count: 20, zipf: 1.0, tokens: {kind: fixed, tokens: 600}}
        batch:
          kind: jobs
          at_s: [79200]
          requests_mean: 5000
          over_s: 600
          prompt_tokens: {kind: fixed, tokens: 1500}
          output_tokens: {kind: fixed, tokens: 200}
    - kind: servegen
      path: traces/servegen_m_large_clients.parquet
      rate_per_s: 4
      assign: [{class: chat}]
```
"""

from __future__ import annotations

from .fields import MAX_TOKENS
from .lengths import Bimodal, Fixed, LengthSpec, Lognormal
from .loads import AnyLoad, ClassLoad, Clients, JobLoad, SessionLoad, SharedPrefix
from .shapes import Bursts, Diurnal, Ramp, RateShape, Steps, Weekly
from .traces import AssignRule, Scaling, ServegenSpec, TraceFormat, TraceSpec
from .whole import GeneratedSpec, MixSpec, PartSpec, WorkloadSpec

__all__ = [
    "AnyLoad",
    "AssignRule",
    "Bimodal",
    "Bursts",
    "ClassLoad",
    "Clients",
    "Diurnal",
    "Fixed",
    "GeneratedSpec",
    "JobLoad",
    "LengthSpec",
    "Lognormal",
    "MAX_TOKENS",
    "MixSpec",
    "PartSpec",
    "Ramp",
    "RateShape",
    "Scaling",
    "ServegenSpec",
    "SessionLoad",
    "SharedPrefix",
    "Steps",
    "TraceFormat",
    "TraceSpec",
    "Weekly",
    "WorkloadSpec",
]
