import torch

from pipelines.base.diffusion import draw_timesteps, face_weight


def test_the_loss_weighs_most_where_eyes_and_mouth_are() -> None:
    weight = face_weight(16, 64, people=16)
    assert torch.isclose(weight.mean(), torch.tensor(1.0))
    assert weight[6:12].mean() > 1.5 * weight[:5].mean()


def test_timesteps_are_of_the_schedule_and_most_are_in_its_middle() -> None:
    timesteps = draw_timesteps(4000, 1000)
    assert 0 <= timesteps.min() <= timesteps.max() <= 999
    assert ((timesteps > 200) & (timesteps < 700)).float().mean() > 0.55
    assert (timesteps > 950).sum() > 20  # sampling begins at pure noise
