"""The blocks' order of convergence, measured on fields with exact solutions, in float64."""

from functools import partial

import numpy as np
import pytest
import torch
import torchdiffeq

from flowturbo_core import steps as blocks
from flowturbo_core.plan import SamplePlan
from flowturbo_core.sampler import Job, Velocities, sample
from tests.problems import PROBLEMS, Linear, Oracle, Quadratic, Straight, start_points

REFINE = {"consistent": blocks.refine_step, "released": blocks.refine_step_released}


def steps_for(problem, variant="consistent", refiner=None):
    """Bind the steps to a problem, with times as floats: the product's are float32 tensors."""
    return {
        "E": partial(blocks.euler_step, problem),
        "H": partial(blocks.heun_step, problem),
        "P": partial(blocks.pseudo_step, problem),
        "R": partial(REFINE[variant], refiner or Oracle(problem)),
    }


def integrate(problem, plan, x0, variant="consistent", t_start=0.0, refiner=None):
    plan = SamplePlan.parse(plan) if isinstance(plan, str) else plan
    job = Job(x0, Velocities(problem), None, None, t_start)
    return list(sample(steps_for(problem, variant, refiner), plan.schedule(t_start), job))[-1].x


def error(problem, plan, variant):
    x0 = start_points()
    return (integrate(problem, plan, x0, variant) - problem.solution(x0, 1.0)).abs().max().item()


def measured_order(problem_class, template, variant="consistent"):
    """Fit the slope of log error over log step; `template` is a plan's proportions."""
    unit = SamplePlan.parse(template).blocks
    errors, counts = [], []
    for scale in (2, 4, 8):
        if template.startswith("["):
            letters = unit * scale  # the pattern more often
        else:
            letters = "".join(letter * scale for letter in unit)  # each stretch longer
        errors.append(error(problem_class(), SamplePlan(letters), variant))
        counts.append(len(letters))
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(
    ("template", "order"),
    [
        ("E8", 1),
        ("H8", 2),
        ("P8", 2),
        ("H1R7", 2),
        ("H1P5R3", 2),
        ("H4P4R4", 2),
        ("P5H3R3", 2),
        ("H3R3P3", 2),
        ("[H1P1R1]x4", 2),
        ("[H1P2]x4", 2),
    ],
)
def test_order_of_convergence(problem, template, order):
    assert measured_order(problem, template) == pytest.approx(order, abs=0.15)


def test_a_share_of_euler_steps_makes_a_plan_first_order():
    assert measured_order(Linear, "[E1H1]x4") == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_released_refiner_is_first_order_even_with_a_perfect_refiner(problem):
    # It carries d0, so from the second R on its second offset is one step stale and the
    # correction of x comes out half too large (reference.md, section 2).
    assert measured_order(problem, "[H1R7]x1", "released") == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_perfect_refiner_makes_consistent_r_a_heun_step(problem):
    x0 = start_points()
    refined = integrate(problem(), "H1R7", x0, "consistent")
    torch.testing.assert_close(refined, integrate(problem(), "H8", x0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("variant", ["consistent", "released"])
@pytest.mark.parametrize("plan", ["E1", "H1", "P1", "H1P1", "H1R1", "E1R1", "H1P5R3"])
def test_a_straight_path_is_followed_exactly_by_every_block(plan, variant):
    x0 = start_points()
    field = Straight(torch.linspace(-3, 2, 8, dtype=torch.float64).view_as(x0))

    def silent(x, t, v, condition, guidance_scale):  # on a straight path the offset is zero
        return torch.zeros_like(v)

    end = integrate(field, plan, x0, variant, refiner=silent)
    torch.testing.assert_close(end, field.solution(x0, 1.0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_torchdiffeq_agrees_with_the_exact_solution_and_with_the_blocks(problem):
    field, x0 = problem(), start_points()
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def field_of(t, x):
        return field.field(x, t)

    accurate = torchdiffeq.odeint(field_of, x0, times, method="dopri5", rtol=1e-10, atol=1e-12)[-1]
    torch.testing.assert_close(accurate, field.solution(x0, 1.0), rtol=0, atol=1e-8)
    for method, plan in (("heun2", "H10"), ("euler", "E10")):
        theirs = torchdiffeq.odeint(field_of, x0, times, method=method, options={"step_size": 0.1})[
            -1
        ]
        torch.testing.assert_close(integrate(field, plan, x0), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_starting_in_the_middle_of_the_path(problem):
    field, x0 = problem(), start_points()
    middle = field.solution(x0, 0.3)
    end = integrate(field, "H2P20R2", middle, t_start=0.3)
    torch.testing.assert_close(end, field.solution(x0, 1.0), rtol=0, atol=3e-3)


def straight_line(plan, velocity, refiner, variant, x):
    """The blocks of reference.md, section 2, written out once more without any of the product."""
    n, v, fresh = len(plan), None, False
    for i, letter in enumerate(plan):
        t, s, dt = i / n, (i + 1) / n, 1 / n
        if letter == "E":
            v = velocity(x, t)
            x, fresh = x + dt * v, False
        elif letter in "HP":
            d0 = v if letter == "P" and fresh else velocity(x, t)
            d1 = velocity(x + dt * d0, s)
            x, v, fresh = x + dt * (d0 + d1) / 2, d1, True
        else:
            d0 = refiner(x, t, v) + v
            base = v if variant == "consistent" else d0
            d1 = refiner(x + dt * d0, s, v) + base
            x, v, fresh = x + dt * (d0 + d1) / 2, d1 if variant == "consistent" else d0, False
    return x


class Imperfect:
    """A refiner that is wrong, by a function of all that it sees."""

    def __call__(self, x, t, v, condition=None, guidance_scale=None):
        return 0.3 * torch.sin(2 * x + 3 * v + 5 * t) - 0.1 * v


@pytest.mark.parametrize("variant", ["consistent", "released"])
@pytest.mark.parametrize(
    "plan",
    ["H8", "H1P5R3", "H5R7P3", "P5H7R3", "P5R7H3", "[H1P1R1]x3", "E2P3R2E1P1", "P6R2", "H1R1"],
)
def test_mixed_plans_equal_a_straight_line_program(plan, variant):
    field, x0 = Quadratic(), start_points()
    found = integrate(field, plan, x0, variant, refiner=Imperfect())
    expected = straight_line(
        SamplePlan.parse(plan).blocks,
        lambda x, t: field.field(x, t),
        Imperfect(),
        variant,
        x0,
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_what_each_block_carries_on():
    # The velocity at the block's end (predicted) after H, P and consistent R; that at its start
    # after E and released R.
    field, x0, dt = Linear(), start_points(), 0.25
    carried = blocks.State(x0, field.field(x0, 0.0) + 0.1)
    steps = steps_for(field) | {"released": steps_for(field, "released")["R"]}
    at_start = field.field(x0, 0.0)
    at_end = {
        "H": field.field(x0 + dt * at_start, dt),
        "P": field.field(x0 + dt * carried.v, dt),
        "R": field.field(x0 + dt * at_start, dt),
        "E": at_start,
        "released": at_start,
    }
    for kind, expected in at_end.items():
        state = steps[kind](carried, 0.0, dt, None, None)
        torch.testing.assert_close(state.v, expected, rtol=0, atol=1e-14, msg=kind)
