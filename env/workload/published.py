"""What published traces say of requests: lengths, arrivals, days and bursts, as pieces of a `ClassLoad`.

How the lengths were computed: mean, 95th percentile, least and most of the measured lengths, through which
`Lognormal` passes a log-normal that has just this mean (which the bill follows) and this 95th percentile (which the
latency tail follows). The body is only roughly log-normal; the Kolmogorov-Smirnov distance between fit and data is
stated beside each. Where the body matters, replay the trace itself.

Sources
- Azure: `AzureLLMInferenceTrace_conv.csv` of Azure/AzurePublicDataset, CC-BY 4.0; 19 366 requests of one hour of a
  conversation service, 16 November 2023. Patel et al., Splitwise, ISCA 2024.
- Mooncake: `conversation_trace.jsonl` of kvcache-ai/Mooncake, Apache-2.0; 12 031 requests of one hour of the Kimi
  service. Qin et al., FAST 2025. Its arrival times are rounded to 3 s: they say nothing of the gaps between requests.
- ServeGen: `m-large` and `m-small` of alibaba/ServeGen, Apache-2.0; ten days of Alibaba Cloud Model Studio as
  rates and quantiles by client, and `deepseek-r1`, one day of a reasoning model. Xiang et al., arXiv:2505.09999.
  Lengths of several clients are pooled by their number of requests in each 6 hours. What its clients ask for is not
  published: here they are told apart by their lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

from .spec import Bursts, ClassLoad, Diurnal, Lognormal, RateShape, Steps


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the requests of one kind of work are."""

    prompt_tokens: Lognormal
    output_tokens: Lognormal
    correlation: float = 0.0
    """Of the normal scores; 0 where the source publishes the two apart."""

    def load(self, rate_per_s: float, cv: float = 1.0, shape: tuple[RateShape, ...] = ()) -> ClassLoad:
        """A class with these lengths; gamma arrivals, which at `cv` 1 are Poisson."""
        return ClassLoad(
            rate_per_s=rate_per_s,
            arrivals="gamma",
            cv=cv,
            shape=shape,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            correlation=self.correlation,
        )


CHAT_LENGTHS = Lengths(
    Lognormal(mean=1154.7, p95=4083, min=2, max=14_050),
    Lognormal(mean=211.1, p95=451, min=7, max=1000),
    correlation=0.076,
)
"""Azure. As median and sigma: prompts 594 and 1.17 (KS distance 0.23: the data cluster near 200, 1 000 and 4 100
tokens), outputs 181 and 0.55 (KS 0.26: clusters near 100 and 400). Rank correlation 0.073."""

LONG_CONTEXT_LENGTHS = Lengths(
    Lognormal(mean=12_035.1, p95=39_550, min=891, max=126_195),
    Lognormal(mean=342.6, p95=698, min=1, max=2000),
    correlation=0.075,
)
"""Mooncake. As median and sigma: prompts 7 022 and 1.05 (KS 0.12), outputs 300 and 0.51 (KS 0.19). Rank correlation
0.072. Wants engines with a context of 128 k tokens."""

SUMMARISATION_LENGTHS = Lengths(
    Lognormal(mean=2722.2, p95=5846, min=9, max=30_699),
    Lognormal(mean=268.3, p95=749, min=1, max=8192),
)
"""ServeGen m-large: the 13 clients whose mean prompt has 2 000 tokens or more and at least four times the tokens of
their mean output, which has more than 50 (9.0 million requests)."""

CLASSIFICATION_LENGTHS = Lengths(
    Lognormal(mean=485.2, p95=919, min=9, max=27_443),
    Lognormal(mean=8.3, p95=27.2, min=1, max=9035),
)
"""ServeGen m-large: the 29 clients whose mean output has 20 tokens or fewer (35.9 million requests). Half of their
outputs have at most 3 tokens."""

SHORT_ANSWER_LENGTHS = Lengths(
    Lognormal(mean=1085.3, p95=2619, min=9, max=30_701),
    Lognormal(mean=57.7, p95=144, min=1, max=8568),
)
"""ServeGen m-large: the 27 clients whose mean prompt has 800 to 4 000 tokens and whose mean answer has 20 to 100 (15.1
million requests): as long as completions of code are."""

REASONING_LENGTHS = Lengths(
    Lognormal(median=208, sigma=1.9, min=1, max=53_763),
    Lognormal(mean=1527.4, p95=5716, min=1, max=31_856),
)
"""ServeGen deepseek-r1, all 73 clients; answers with their reasoning. Prompts by their median and, through sigma, their
mean of 1 268: no log-normal has also their 95th percentile, 6 761."""

CHAT_CV = 1.04
"""Azure: coefficient of variation of the gaps between arrivals, median of the five whole 10-minute windows: nearly
Poisson once the slow movement of the rate (3.2 to 8.4 requests/s in single minutes) is set aside."""

CLIENT_CV_MEDIAN = 1.21
CLIENT_CV_P75 = 2.25
"""ServeGen m-large: coefficient of variation of the gaps of a single client in 10-minute windows; half and three
quarters of the requests are in windows with at most this. 78 % of the windows are best fitted by gamma gaps."""

CLIENT_ZIPF = 1.14
"""ServeGen m-large and deepseek-r1: minus the slope of the logarithm of a client's requests over that of its rank,
first 40 clients. The largest has 14 % and 29 % of all requests, the five largest 44 % and 53 %."""

CLIENT_BURSTS_PER_DAY, CLIENT_BURST_S = 2.6, 1230.0
CLIENT_BURST_FACTORS = (2.0, 7.6)
"""ServeGen m-large: of a single client, runs of 10-minute windows above 1.5 times the median of the 3 hours around:
how many a day, their mean length, and their height over that median (median and ninth decile, weighed by requests).
deepseek-r1: 1.5 a day, 1 160 s, 2.1 and 20."""

TEN_MINUTE_MOVES = {"m-large": (0.047, 0.226, 0.591), "deepseek-r1": (0.102, 0.351, 0.672)}
"""ServeGen: by how much the logarithm of a service's total rate moves from one 10-minute window to the next: median,
90th and 99th percentile. Moves of a t distribution with 2 degrees of freedom, scaled to the median, have the same
ninth decile within a quarter, and a 99th percentile of 0.57 and 1.2."""

DAY = Diurnal(period_s=86_400, amplitude=0.25, peak_at_s=61_750)
"""ServeGen m-small: least-squares cosine through ten days of the total rate. It explains 32 % of the variance; the
peak is at 17:09 of the trace's clock."""

DAY_BY_HOUR = Steps(
    times_s=tuple(3600.0 * hour for hour in range(24)),
    factors=(
        *(0.825, 0.674, 0.703, 0.642, 0.632, 0.681, 0.677, 0.830, 0.962, 1.125, 1.139, 1.122),
        *(1.098, 1.093, 1.081, 1.033, 1.040, 1.111, 1.074, 1.236, 1.473, 1.387, 1.287, 1.074),
    ),
)
"""ServeGen m-small: mean total rate of each hour of the day over ten days, over the mean of all. One day long."""

SERVICE_BURSTS = Bursts(every_s=19_600, duration_s=1040, factor=1.51)
"""ServeGen m-large: 44 runs of 10-minute windows, in ten days, in which the total rate of 162 clients was above 1.25
times the median of the 3 hours around; mean length, mean distance, mean height over that median. Those of a single
client are far higher."""
