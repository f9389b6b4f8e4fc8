"""Velocity fields with exact solutions: what a solver is measured against.

Each problem is a field `velocity(x, t, condition, guidance_scale)` from t = 0 to 1, the signature
of every velocity model, with `solution(x0, t)`, where the path from x0 at t = 0 is at time t.
"""

import math

import torch
from torch import Tensor


def _exp(t):
    return torch.exp(t) if isinstance(t, Tensor) else math.exp(t)


def _sin(t):
    return torch.sin(t) if isinstance(t, Tensor) else math.sin(t)


def _cos(t):
    return torch.cos(t) if isinstance(t, Tensor) else math.cos(t)


class Field:
    """A velocity model that counts how often it is evaluated."""

    def __init__(self):
        self.evaluations = 0

    def __call__(self, x, t, condition=None, guidance_scale=None):
        self.evaluations += 1
        return self.field(x, t)


class Linear(Field):
    """dx/dt = -2 (x - sin 3t) + 3 cos 3t: linear, its coefficients moving with time."""

    def field(self, x, t):
        return -2 * (x - _sin(3 * t)) + 3 * _cos(3 * t)

    def solution(self, x0, t):
        return _sin(3 * t) + x0 * _exp(-2 * t)


class Quadratic(Field):
    """dx/dt = x^2 cos t: nonlinear; finite up to t = 1 for |x0| < 1."""

    def field(self, x, t):
        return x**2 * _cos(t)

    def solution(self, x0, t):
        return x0 / (1 - x0 * _sin(t))


class GaussianFlow(Field):
    """The flow-matching field from N(0, 1) to N(mean, std^2), drawn independently.

    x_t = (1 - t) x_0 + t x_1 is N(t mean, s_t^2) with s_t^2 = (1 - t)^2 + t^2 std^2, so the
    velocity E[x_1 - x_0 | x_t] is mean + (s_t' / s_t) (x - t mean), and paths keep their quantile.
    """

    mean, std = 1.5, 0.4

    def _variance(self, t):
        return (1 - t) ** 2 + t**2 * self.std**2

    def field(self, x, t):
        slope = (t * self.std**2 - (1 - t)) / self._variance(t)
        return self.mean + slope * (x - t * self.mean)

    def solution(self, x0, t):
        return t * self.mean + self._variance(t) ** 0.5 * x0


class Straight(Field):
    """Every sample moves on a straight line of its own: what reflow aims at."""

    def __init__(self, velocity: Tensor):
        super().__init__()
        self.velocity = velocity

    def field(self, x, t):
        return self.velocity

    def solution(self, x0, t):
        return x0 + t * self.velocity


class Oracle:
    """A perfect refiner: the offset from the carried velocity to the one that is right."""

    def __init__(self, problem: Field):
        self.problem, self.evaluations = problem, 0

    def __call__(self, x, t, v, condition=None, guidance_scale=None):
        self.evaluations += 1
        return self.problem.field(x, t) - v


PROBLEMS = (Linear, Quadratic, GaussianFlow)


def start_points() -> Tensor:
    """Return x0, (B, C, H, W) = (2, 1, 2, 2), float64, where every problem is smooth."""
    return torch.linspace(-0.7, 0.7, 8, dtype=torch.float64).view(2, 1, 2, 2)
