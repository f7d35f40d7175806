import pytest
import torch

from pipelines.meter import Meter, clock


def test_it_averages_the_losses_since_it_was_last_read() -> None:
    meter = Meter()
    meter.add(torch.tensor([9.0, 9.0, 9.0]))
    meter.read(batch_size=1)
    meter.add(torch.tensor([1.0, 2.0, 3.0]))
    meter.add(torch.tensor([3.0, 4.0, 5.0]))
    line = meter.read(batch_size=8)
    assert (line["loss"], line["denoising"], line["regulariser"]) == (2.0, 3.0, 4.0)
    assert line["images_per_second"] == pytest.approx(16 / line["seconds"])


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (125, "2:05"), (3723, "1:02:03")])
def test_a_clock_reads_as_people_write_time(seconds: int, text: str) -> None:
    assert clock(seconds) == text
