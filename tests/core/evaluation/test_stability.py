"""Curvature of paths whose curvature is known."""

import math

import pytest
import torch

from flowturbo_core.evaluation.stability import curvature


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
