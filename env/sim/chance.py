"""Random numbers for compiled code: each is a function of what it is for, not of how many were drawn before.

So two policies in the same world meet the same coin tosses for the same request or the same replica start, which makes
paired comparisons sharp, and a cluster behaves the same alone and inside any batch.
"""

from __future__ import annotations

import math

from numba import uint64

from .engine_state import compiled

ADMIT, POOL, FIRST_REPLICA, SECOND_REPLICA, PROVISION, PREEMPTION, VICTIM = range(7)
LOAD, STUCK, HANG, CRASH, WAKE, FALL_ASLEEP = range(7, 13)
"""What a number is drawn for."""


@compiled
def uniform(seed: int, purpose: int, subject: int, attempt: int) -> float:
    """A number in [0, 1): the finaliser of SplitMix64 (Steele et al., 2014) over the four arguments."""
    z = uint64(seed) + uint64(purpose + 1) * uint64(0x9E3779B97F4A7C15)
    for part in (uint64(subject), uint64(attempt)):
        z = (z ^ part) * uint64(0xD1B54A32D192ED03) + uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> uint64(27))) * uint64(0x94D049BB133111EB)
        z = z ^ (z >> uint64(31))
    return float(z >> uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def exponential(seed: int, purpose: int, subject: int, attempt: int) -> float:
    """Exponential with mean 1."""
    return -math.log(1.0 - uniform(seed, purpose, subject, attempt))


@compiled
def log_normal(mean: float, spread_frac: float, seed: int, purpose: int, subject: int, attempt: int) -> float:
    """Log-normal of this mean, with standard deviation `spread_frac` times the mean."""
    if spread_frac <= 0.0 or mean <= 0.0:
        return mean
    variance = math.log(1.0 + spread_frac * spread_frac)
    # Box and Muller, of which one half is enough: two numbers from one subject, told apart by the attempt's parity.
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(seed, purpose, subject, 2 * attempt)))
    normal = radius * math.cos(2.0 * math.pi * uniform(seed, purpose, subject, 2 * attempt + 1))
    return mean * math.exp(math.sqrt(variance) * normal - 0.5 * variance)
