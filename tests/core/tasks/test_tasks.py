"""Jobs: where the noise comes from."""

import pytest
import torch

from flowturbo_core.requests import TASKS
from flowturbo_core.tasks import JOBS, generate, initial_noise


def test_a_seed_gives_the_same_noise_alone_and_in_any_batch():
    together = initial_noise((4, 8, 8), [5, 6, 7])
    assert together.shape == (3, 4, 8, 8)
    for k, seed in enumerate((5, 6, 7)):
        assert torch.equal(together[k], initial_noise((4, 8, 8), [seed])[0])


def test_seeds_give_different_standard_normal_noise():
    noise = initial_noise((4, 32, 32), [0, 1])
    assert noise.dtype == torch.float32
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    assert torch.corrcoef(noise.flatten(1))[0, 1].abs() < 0.1


def test_drawing_noise_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    initial_noise((4, 8, 8), [0, 1])
    assert torch.equal(torch.get_rng_state(), before)


def test_every_task_has_its_job():
    assert JOBS.keys() == set(TASKS.values())


def test_a_generating_job_starts_from_the_noise_at_time_zero(pipeline):
    noise, condition, null = initial_noise((1, 8, 8), [0]), torch.tensor([1]), torch.tensor([3])
    job = pipeline.guided(noise, condition, null, 1.5)
    request = pipeline.request([1], guidance_scale=1.5)
    assert generate(request, job, pipeline) is job
    assert job.x_init is noise and job.guidance_scale == 1.5
    assert torch.equal(torch.stack(list(job.condition)).flatten(), torch.tensor([1, 3]))
    assert job.t_start == 0
