"""What `poolpilot audit --out` keeps: the document, the page, and the load as a scenario to go on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ...audit.as_it_was import REQUESTS_FILE, longest_tokens
from ...audit.auditing import Audit
from ...audit.load import requests_of

DOCUMENT: Final = "audit.json"
SCENARIO: Final = "scenario.yaml"


def keep(folder: Path, audit: Audit, document: dict[str, Any]) -> None:
    """Write it all; what an earlier audit left there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DOCUMENT).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    requests = requests_of(audit.measured, longest_tokens(audit.scenario), 0)
    names = np.array(requests.class_names)
    table = pa.table(
        {
            "arrival_s": requests.arrival_s,
            "input_tokens": requests.prompt_tokens,
            "output_tokens": requests.output_tokens,
            "class": names[requests.class_index],
        }
    )
    pq.write_table(table, folder / REQUESTS_FILE)
    scenario = audit.scenario.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    scenario = {"schema": 1, **scenario}
    for pool in scenario["pools"].values():
        if pool.get("law"):
            pool["law"] = str((audit.description.base_dir / pool["law"]).resolve())
    (folder / SCENARIO).write_text(yaml.safe_dump(scenario, sort_keys=False), encoding="utf-8")
