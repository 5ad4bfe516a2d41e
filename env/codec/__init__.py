"""Between the contract and the network: what the agent sees, and what its numbers mean.

Scaling is fixed: no running statistics to store or to poison. A neutral output (all zeros) is the first rule's
proposal; other outputs trust other rules of the portfolio, and bend the blend. One codec serves training, evaluation and
the sidecar.
"""

from .features import (
    CLASS_FEATURES,
    FORECAST_SEEN_S,
    POOL_FEATURES,
    WHOLE_FEATURES,
    Observation,
    encode,
    miss_price_feature,
)
from .outputs import (
    BLENDED,
    CLASS_OUTPUTS,
    HEADROOM_BEND,
    POOL_OUTPUTS,
    WHOLE_OUTPUTS,
    Outputs,
    bend,
    blend,
    decode,
    trust_weights,
)
from .past import BUDGET_WINDOW_S, Past, look_back, track_budget
from .proposal import ROUNDING_SLACK, Proposal, Proposer, on_top, whole_replicas
from .schema import OBSERVATION_VERSION, observation_schema

__all__ = [
    "BLENDED",
    "BUDGET_WINDOW_S",
    "CLASS_FEATURES",
    "CLASS_OUTPUTS",
    "HEADROOM_BEND",
    "FORECAST_SEEN_S",
    "OBSERVATION_VERSION",
    "POOL_FEATURES",
    "POOL_OUTPUTS",
    "ROUNDING_SLACK",
    "WHOLE_FEATURES",
    "WHOLE_OUTPUTS",
    "Observation",
    "Outputs",
    "Past",
    "Proposal",
    "Proposer",
    "bend",
    "blend",
    "decode",
    "encode",
    "look_back",
    "miss_price_feature",
    "observation_schema",
    "on_top",
    "track_budget",
    "trust_weights",
    "whole_replicas",
]
