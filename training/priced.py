"""Observations as they are where another price of a miss is told."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..env.codec import WHOLE_FEATURES, miss_price_feature
from ..env.contract import FloatArray
from ..env.spaces import SpaceLayout


def at_price(seen: NDArray[np.float32], prices: FloatArray, layout: SpaceLayout) -> NDArray[np.float32]:
    """`[B, N]` observations as they would be at these prices of a miss `[B]`: nothing else depends on them."""
    changed = seen.copy()
    changed[:, sum(layout.sizes[:2]) + WHOLE_FEATURES.index("miss_price")] = miss_price_feature(prices)
    return changed
