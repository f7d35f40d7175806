"""Network namespaces as hosts, and a small run on them."""

from collections.abc import Iterator

import pytest

from benchmarks.faults.campaign import Campaign
from benchmarks.faults.hosts import Network, missing_requirement
from benchmarks.faults.job import Job


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """Two hosts that resolve each other by name."""
    if reason := missing_requirement():
        pytest.skip(reason)
    with Network(2) as made:
        yield made


@pytest.fixture(scope="session")
def campaign(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Runs of ten steps on both hosts, one of which has completed without a fault."""
    campaign = Campaign(Job.make(tmp_path_factory.mktemp("job"), steps=10), network)
    campaign.run_undisturbed(hosts=2)
    return campaign
