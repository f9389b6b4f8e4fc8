"""Curvature and straightness of paths of which both are known."""

import json
import math

import pytest
import torch

from flowturbo_core.evaluation.solver_error import solve
from flowturbo_core.evaluation.stability import Trajectory, describe, follow, straightness
from flowturbo_core.path import curvature
from tests.problems import PROBLEMS, GaussianFlow, Straight, start_points


def velocities_on_a_circle(radius, speed, t):
    angle = speed / radius * t
    return speed * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)


@pytest.mark.parametrize(("radius", "speed"), [(0.5, 1.0), (2.0, 3.0), (40.0, 1.0)])
def test_of_a_circle_is_one_over_its_radius(radius, speed):
    dt = 1e-3
    one, other = (velocities_on_a_circle(radius, speed, t) for t in (0.3, 0.3 + dt))
    assert float(curvature(one, other, dt)) == pytest.approx(1 / radius, rel=1e-5)


def test_of_a_straight_path_is_zero_however_its_speed_changes():
    v = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    assert curvature(v, 1.7 * v, 0.1) == pytest.approx([0, 0, 0], abs=1e-9)


def test_each_path_has_its_own_and_standing_still_has_none():
    v = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    turned = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    bent, still = curvature(v, turned, 1.0)
    assert bent > 0 and still == 0


def exact(problem, num_steps):
    """Return the trajectory of a field along its exact solution."""
    times = tuple(k / num_steps for k in range(num_steps + 1))
    x = torch.stack([problem.solution(start_points(), t) for t in times])
    return Trajectory(
        times, x, torch.stack([problem.field(its, t) for t, its in zip(times, x, strict=True)])
    )


def test_straight_paths_have_none():
    trajectory = exact(Straight(torch.randn(2, 1, 2, 2, dtype=torch.float64)), 8)
    assert straightness(trajectory) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_straightness_is_the_mean_square_of_the_speed_less_that_of_the_way(problem):
    # The integral of |(Z1 - Z0) - Z'|^2 is that of |Z'|^2, less |Z1 - Z0|^2, along each path.
    trajectory = exact(problem(), 400)
    moved = (trajectory.x[-1] - trajectory.x[0]).flatten(1).square().sum(1).mean()
    speeds = trajectory.v.flatten(2).square().sum(2).mean(1)
    integral = torch.trapezoid(speeds, torch.tensor(trajectory.times, dtype=torch.float64))
    assert straightness(trajectory) == pytest.approx(float(integral - moved), rel=1e-3)


def test_the_gaussian_flow_in_closed_form():
    # From the mean of the noise, x0 = 0, the path is t * mean: straight.
    problem = GaussianFlow()
    times = tuple(k / 16 for k in range(17))
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    x = torch.stack([problem.solution(zero, t) for t in times])
    v = torch.stack([problem.field(its, t) for t, its in zip(times, x, strict=True)])
    assert straightness(Trajectory(times, x, v)) == pytest.approx(0, abs=1e-20)


def test_a_model_is_followed_to_where_its_solver_ends(pipeline):
    trajectory = follow(pipeline, 1.5, 3, num_steps=100, num_noises=32)
    torch.testing.assert_close(trajectory.x[-1], solve(pipeline, 1.5, 3)[:32], atol=1e-5, rtol=1e-5)
    # The velocities are those of the path: its slope, seen from both sides.
    slope = (trajectory.x[51] - trajectory.x[49]) * 50
    torch.testing.assert_close(trajectory.v[50], slope, atol=2e-3, rtol=2e-3)


def test_a_model_is_described_by_its_own_numbers(pipeline):
    trajectory = follow(pipeline, 1.5, num_steps=6, num_noises=16)
    described = describe(trajectory)
    assert len(described["curvature"]) == 6 and len(described["deviation"]) == 7
    for row, start, end in zip(described["curvature"], range(6), range(1, 7), strict=True):
        assert row["t"] == pytest.approx((start + end) / 12)
        assert 0 <= row["lower_quartile"] <= row["median"] <= row["upper_quartile"]
        values = curvature(trajectory.v[start], trajectory.v[end], 1 / 6)
        assert row["median"] == pytest.approx(float(values.quantile(0.5)))
    per_dimension = described["straightness_per_dimension"]
    assert described["straightness"] == pytest.approx(per_dimension * 4 * 8 * 8)


def test_the_command_line_writes_numbers_and_a_plot(command_line, pipeline_folder, tmp_path):
    file, plot = tmp_path / "new" / "s.json", tmp_path / "plots" / "s.png"
    options = ("--model", pipeline_folder, "--device", "cpu", "--num-steps", 4, "--json", file)
    done = command_line("straightness", *options, "--plot", plot)
    assert done.code == 0, done.err
    assert json.loads(file.read_text())["num_steps"] == 4 and "S(Z)" in done.out
    assert plot.read_bytes().startswith(b"\x89PNG")
    for wrong in (("--num-steps", 1), ("--plot", tmp_path / "s.txt"), ("--plot", file / "s.png")):
        refused = command_line("straightness", *options, *wrong)
        assert refused.code == 2 and refused.err.count("\n") == 1
