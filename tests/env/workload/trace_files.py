"""Small valid traces in every format, as the services publish them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,55
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.017335+00:00,2399,6
2024-05-10 00:00:01+00:00,76,15
"""
BURSTGPT_1 = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""
BURSTGPT_2 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.0,1722ac82-0a46,43,GPT-4,906,446,1352,Conversation log
19440161.0,,2,ChatGPT,36,29,65,API log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 1100, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 0, "input_length": 700, "output_length": 3, "hash_ids": [0, 14]}
{"timestamp": 3000, "input_length": 1536, "output_length": 71, "hash_ids": [0, 1, 30]}
"""
PLAIN = """arrival_s,input_tokens,output_tokens,class,model,prefix_id,prefix_tokens
0,100,5,chat,small,help,60
0.5,200,0,batch,large,,
2,80,7,chat,small,help,60
"""
PLAIN_HASHES = """arrival_s,input_tokens,output_tokens,hash_ids
0,1100,5,"[0, 1, 2]"
1,600,7,0 1
2,600,7,
"""
SERVEGEN_TRACE = "0,0.5,1.2,Gamma,0.7,2.8\n600,0,,,,\n1200,0.2,2.0,Weibull,0.6,3.3\n"
SERVEGEN_DATASET = json.dumps(
    {
        "0": {"input_tokens": "{200: 0.25, 300: 0.75}", "output_tokens": "{10: 1.0}"},
        "1200": {"input_tokens": "{}", "output_tokens": "{5: 0.5, 7: 0.5}"},
    }
)


def parquet_bytes(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


VALID: dict[str, bytes] = {
    "azure-2023.csv": AZURE_2023.encode(),
    "azure-2024.csv": AZURE_2024.encode(),
    "burstgpt-1.csv": BURSTGPT_1.encode(),
    "burstgpt-2.csv": BURSTGPT_2.encode(),
    "mooncake.jsonl": MOONCAKE.encode(),
    "plain.csv": PLAIN.encode(),
    "plain-hashes.csv": PLAIN_HASHES.encode(),
    "plain.parquet": parquet_bytes(
        arrival_s=[0.0, 1.0], input_tokens=[600, 600], output_tokens=[1, 2], hash_ids=[[0, 1], [0, 2]]
    ),
    "plain.jsonl": b'{"arrival_s": 1, "input_tokens": 5, "output_tokens": 1, "class": "chat"}\n',
}
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "zstd": lambda content: pa.Codec("zstd").compress(content).to_pybytes(),
    "lz4": lambda content: pa.Codec("lz4").compress(content).to_pybytes(),
}


def a_file(folder: Path, content: str | bytes, name: str = "trace") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def a_service(folder: Path) -> Path:
    """A ServeGen folder of one client."""
    service = folder / "service"
    service.mkdir()
    (service / "chunk-3-trace.csv").write_text(SERVEGEN_TRACE)
    (service / "chunk-3-dataset.json").write_text(SERVEGEN_DATASET)
    return service
