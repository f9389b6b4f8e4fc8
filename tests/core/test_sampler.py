"""The one loop: lazy, told of every block, and fair to compiled blocks."""

import pytest
import torch

from flowturbo_core.plan import SamplePlan
from flowturbo_core.sampler import HAIR, Job, Velocities, build_steps, sample
from flowturbo_core.steps import State
from tests.problems import Linear, Oracle, start_points

SCALE = torch.tensor(1.5)


def run(velocity, plan, refiner=None, x0=None, condition=None, t_start=0.0, **task):
    """Sample by a plan: the states, one a block."""
    velocities = Velocities(velocity, refiner)
    x0 = start_points() if x0 is None else x0
    job = Job(x0, velocities, condition, SCALE, t_start, **task)
    return sample(build_steps(velocities), SamplePlan.parse(plan).schedule(t_start), job)


def test_one_state_a_block_and_nothing_is_computed_ahead():
    field = Linear()
    states = run(field, "H2P3")
    assert field.evaluations == 0
    counts = [field.evaluations for _ in states]
    assert counts == [2, 4, 5, 6, 7]


def test_closing_the_generator_stops_the_work():
    field = Linear()
    states = run(field, "H8")
    next(states)
    next(states)
    states.close()
    assert field.evaluations == 4
    assert next(states, "the end") == "the end"


@pytest.mark.parametrize("t_start", [0.0, 0.3])
def test_the_task_projects_after_every_block_at_its_time(t_start):
    times = []

    def project(state, t):
        times.append(t)
        return state

    list(run(Linear(), "H1P2", t_start=t_start, project=project))
    assert times == pytest.approx(SamplePlan.parse("H1P2").time_grid(t_start)[1:])


def test_what_the_projection_returns_is_what_goes_on():
    def project(state, t):
        return State(torch.full_like(state.x, t), state.v)

    seen = []

    def velocity(x, t, condition, guidance_scale):
        seen.append(x.clone())
        return torch.zeros_like(x)

    states = run(velocity, "E4", x0=torch.zeros(1, 1, 1, 1), project=project)
    yielded = [state.x.item() for state in states]
    assert yielded == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert [x.item() for x in seen] == pytest.approx([0.0, 0.25, 0.5, 0.75])


def test_models_see_tensor_times_and_the_jobs_condition_and_scale():
    # A Python number would make a compiled block compile again for every value.
    condition, seen = torch.tensor([3, 5]), []

    def velocity(x, t, given, scale):
        seen.append((t, given, scale))
        return -x

    def refiner(x, t, v, given, scale):
        seen.append((t, given, scale))
        return 0 * v

    list(run(velocity, "E1H1P1R1", refiner, condition=condition))
    assert len(seen) == 1 + 2 + 1 + 2
    for t, given, scale in seen:
        assert isinstance(t, torch.Tensor) and t.ndim == 0 and t.dtype == torch.float32
        assert given is condition and scale is SCALE
    times = [t.item() for t, _, _ in seen]
    assert times == pytest.approx([0, 0.25, 0.5, 0.75, 0.75, 1.0])


def test_without_a_refiner_there_is_no_refiner_step():
    assert set(build_steps(Velocities(Linear()))) == {"E", "H", "P"}
    assert set(build_steps(Velocities(Linear(), Oracle(Linear())))) == {"E", "H", "P", "R"}


def test_the_starting_latents_are_left_as_they_were():
    x0 = start_points()
    before = x0.clone()
    list(run(Linear(), "E1H1P1R1", Oracle(Linear()), x0))
    assert torch.equal(x0, before)


def scheduled(plan, **times):
    """Return the schedule of a job's plan: kinds, times and lengths."""
    job = Job(start_points(), Velocities(Linear()), None, SCALE, **times)
    return zip(*job.schedule(SamplePlan.parse(plan)), strict=True)


@pytest.mark.parametrize("t_start", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("plan", ["E1", "H1P2R1", "P3"])
def test_without_a_switch_the_schedule_is_the_plans(plan, t_start):
    job = Job(start_points(), Velocities(Linear()), None, SCALE, t_start)
    plan = SamplePlan.parse(plan)
    assert job.schedule(plan) == list(plan.schedule(t_start))


@pytest.mark.parametrize(
    ("t_start", "t_switch", "before"),
    [(0.0, 0.5, 3), (0.3, 0.8, 4), (0.0, 0.01, 1), (0.0, 0.99, 5), (0.5, 0.75, 3)],
)
def test_a_schedule_is_uniform_on_both_sides_of_a_switch(t_start, t_switch, before):
    kinds, times, lengths = scheduled("E6", t_start=t_start, t_switch=t_switch)
    assert kinds == tuple("EEEEEE")
    first, second = lengths[:before], lengths[before:]
    assert first == pytest.approx([(t_switch - t_start) / before] * before)
    assert second == pytest.approx([(1 - t_switch) / (6 - before)] * (6 - before))
    assert times[0] == t_start
    assert times[before] == pytest.approx(t_switch + HAIR, abs=1e-9)
    assert times[-1] + lengths[-1] == pytest.approx(1 + HAIR, abs=1e-9)
    assert sum(lengths) == pytest.approx(1 - t_start, abs=1e-12)


@pytest.mark.parametrize(
    ("plan", "kinds"), [("H1P5", "HPPHPP"), ("P6", "HPPHPP"), ("H6", "H" * 6), ("E3P3", "EEEHPP")]
)
def test_no_velocity_is_carried_over_a_switch(plan, kinds):
    found, _, _ = scheduled(plan, t_switch=0.5)
    assert found == tuple(kinds)


def test_a_plan_of_one_block_has_no_switch():
    assert list(scheduled("H1", t_start=0.3, t_switch=0.8)) == [("H",), (0.3,), (0.7,)]
