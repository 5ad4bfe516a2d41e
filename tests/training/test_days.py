"""Days are for one thing only."""

from poolpilot.env.scenario import load_scenario
from poolpilot.training.days import scored_episodes, tuning_episodes

SCENARIO = load_scenario("mixed-chat").model_copy(update={"duration_s": 120.0})


def test_days_to_tune_on_are_never_scored() -> None:
    tuned = {episode.world.workload.arrival_s.tobytes() for episode in tuning_episodes(SCENARIO)}
    scored = {episode.world.workload.arrival_s.tobytes() for episode in scored_episodes(SCENARIO, 5)}
    assert (len(tuned), len(scored)) == (3, 5)
    assert not tuned & scored
