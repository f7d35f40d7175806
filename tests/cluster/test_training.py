"""Pre-training on two hosts, and what happens to them."""

import pytest

from benchmarks.faults.audit import Samples
from benchmarks.faults.campaign import Campaign, Moment
from benchmarks.faults.kinds import KINDS

pytestmark = [pytest.mark.cluster, pytest.mark.distributed, pytest.mark.timeout(600)]

OF_HOSTS = {kind.name: kind for kind in KINDS if kind.hosts == 2}
MOMENT = Moment(step=5, fraction=0.5)
"""After a checkpoint, and a step beyond it, which is lost and done again."""


def test_two_hosts_train_in_one_deepspeed_engine(campaign: Campaign) -> None:
    engine = campaign.job.run("undisturbed-2").lines()[0]
    assert (engine["engine"], engine["world_size"], engine["zero_stage"]) == ("DeepSpeedEngine", 2, 2)


def test_two_hosts_use_every_sample_once_an_epoch(campaign: Campaign) -> None:
    assert campaign.samples("undisturbed-2") == Samples(lost=0, repeated=0)


@pytest.mark.parametrize("fault", OF_HOSTS)
def test_a_struck_run_ends_with_the_weights_of_an_undisturbed_one(campaign: Campaign, fault: str) -> None:
    outcome = campaign.run(OF_HOSTS[fault], fault, [MOMENT])
    assert (outcome.error, outcome.tried, outcome.survived) == ("", 1, 1)
    assert outcome.samples == Samples(lost=0, repeated=0)
    assert outcome.same_weights
