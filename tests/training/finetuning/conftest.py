"""What tests of learning share."""

from collections.abc import Iterator

import pytest

from poolpilot.training.finetuning import bounds


@pytest.fixture(scope="module")
def as_any_process() -> Iterator[None]:
    """Neither priority nor limits of the process that runs the tests are touched."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("yield_to_others", "one_thread"):
            patch.setattr(bounds, name, lambda: None)
        patch.setattr(bounds, "hold_to", lambda own: None)
        yield
