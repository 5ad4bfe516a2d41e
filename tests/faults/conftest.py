"""One cluster for all faults: each test breaks something, and leaves it mended."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from .cluster import Cluster, cluster


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A cluster under load."""
    async with cluster(tmp_path_factory.mktemp("faults")) as made:
        yield made
