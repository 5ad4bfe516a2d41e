"""What `poolpilot audit --out` keeps: the document, the page, and the load as a scenario to go on with."""

from __future__ import annotations

import json
from importlib.util import find_spec
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
PAGE: Final = "audit.html"
SCENARIO: Final = "scenario.yaml"


def keep(folder: Path, audit: Audit, document: dict[str, Any]) -> tuple[str, ...]:
    """Write it all, the page where the extra that draws it is installed; the files' names. What an earlier audit left there is
    replaced."""
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
    scenario = {"schema": 1, **scenario, "workload": {"kind": "trace", "path": REQUESTS_FILE, "format": "plain"}}
    for pool in scenario["pools"].values():
        if pool.get("law"):
            pool["law"] = str((audit.description.base_dir / pool["law"]).resolve())
    (folder / SCENARIO).write_text(yaml.safe_dump(scenario, sort_keys=False), encoding="utf-8")
    (folder / PAGE).unlink(missing_ok=True)
    if find_spec("plotly") is None or find_spec("jinja2") is None:
        return DOCUMENT, SCENARIO, REQUESTS_FILE
    from ...audit.curves import timeline_of
    from ...audit.page import page_of

    html = page_of(document, timeline_of(audit), audit.measured.began_at_s)
    (folder / PAGE).write_text(html, encoding="utf-8")
    return PAGE, DOCUMENT, SCENARIO, REQUESTS_FILE
