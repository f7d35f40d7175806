"""Pre-training on two hosts, with faults of hosts and links."""

import pytest

from benchmarks.faults.audit import Samples
from benchmarks.faults.campaign import Campaign, Moment
from benchmarks.faults.kinds import KINDS

pytestmark = [pytest.mark.cluster, pytest.mark.distributed, pytest.mark.timeout(600)]

TWO_HOST_FAULTS = {kind.name: kind for kind in KINDS if kind.hosts == 2}
MOMENT = Moment(step=5, fraction=0.5)
"""One step after a checkpoint, so that a step is lost and repeated."""


def test_two_hosts_train_in_one_deepspeed_engine(campaign: Campaign) -> None:
    engine = campaign.job.run("undisturbed-2").lines()[0]
    assert (engine["engine"], engine["world_size"], engine["zero_stage"]) == ("DeepSpeedEngine", 2, 2)


def test_two_hosts_use_every_sample_once_per_epoch(campaign: Campaign) -> None:
    assert campaign.samples("undisturbed-2") == Samples(lost=0, repeated=0)


@pytest.mark.parametrize("fault", TWO_HOST_FAULTS)
def test_a_run_with_a_fault_ends_with_the_weights_of_one_without(campaign: Campaign, fault: str) -> None:
    outcome = campaign.run(TWO_HOST_FAULTS[fault], fault, [MOMENT])
    assert (outcome.error, outcome.tried, outcome.survived) == ("", 1, 1)
    assert outcome.samples == Samples(lost=0, repeated=0)
    assert outcome.same_weights
