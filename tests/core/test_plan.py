"""Plans: what they say, what they cost, and what is refused."""

import math

import pytest
import torch

from flowturbo_core.plan import MAX_STEPS, SamplePlan
from flowturbo_core.sampler import Job, Velocities, build_steps, sample
from tests.problems import Linear, Oracle, start_points

# text, blocks, kinds as computed, predictor evaluations, refiner evaluations
PLANS = [
    ("H8", "HHHHHHHH", "HHHHHHHH", 16, 0),
    ("E25", "E" * 25, "E" * 25, 25, 0),
    ("E1", "E", "E", 1, 0),
    ("P6R2", "PPPPPPRR", "HPPPPPRR", 7, 4),
    ("H1P5R3", "HPPPPPRRR", "HPPPPPRRR", 7, 6),
    ("H2P4R2", "HHPPPPRR", "HHPPPPRR", 8, 4),
    ("P5H7R3", "PPPPPHHHHHHHRRR", "HPPPPHHHHHHHRRR", 20, 6),
    ("H5R7P3", "HHHHHRRRRRRRPPP", "HHHHHRRRRRRRHPP", 14, 14),
    ("P5R7H3", "PPPPPRRRRRRRHHH", "HPPPPRRRRRRRHHH", 12, 14),
    ("[H1P1R1]x3", "HPRHPRHPR", "HPRHPRHPR", 9, 6),
    ("[P1R1]x2", "PRPR", "HRHR", 4, 4),
    ("E1P2", "EPP", "EHP", 4, 0),
    ("E2R1", "EER", "EER", 2, 2),
]


@pytest.mark.parametrize(("text", "blocks", "kinds", "predictor", "refiner"), PLANS)
def test_a_plan_is_read_counted_and_printed(text, blocks, kinds, predictor, refiner):
    plan = SamplePlan.parse(text)
    assert plan.blocks == blocks
    assert plan.kinds == kinds
    assert plan.predictor_evaluations == predictor
    assert plan.refiner_evaluations == refiner
    assert len(plan) == len(blocks)
    assert str(plan) == text


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (" H8\n", "H8"),
        ("H1H1", "H2"),
        ("H008", "H8"),
        ("H3P0R2", "H3R2"),
        ("H1P1R1H1P1R1", "[H1P1R1]x2"),
        ("[H2]x3", "H6"),
        ("H1[P1R1]x2E3", "H1P1R1P1R1E3"),
        ("[H1P1]x1", "H1P1"),
    ],
)
def test_a_plan_is_printed_in_one_way_however_it_was_written(text, printed):
    plan = SamplePlan.parse(text)
    assert str(plan) == printed
    assert SamplePlan.parse(printed) == plan


@pytest.mark.parametrize("text", [plan[0] for plan in PLANS])
def test_the_counts_are_what_a_run_really_evaluates(text):
    plan, field = SamplePlan.parse(text), Linear()
    oracle = Oracle(field)
    velocities = Velocities(field, oracle)
    job = Job(start_points(), velocities, None, torch.tensor(1.0))
    for _ in sample(build_steps(velocities), plan.schedule(), job):
        pass
    assert field.evaluations == plan.predictor_evaluations
    assert oracle.evaluations == plan.refiner_evaluations


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "H0",
        "P0R0",
        "[H1]x0",
        "R3",
        "R1H7",
        "H0R2",
        "[R1H1]x2",
        "H",
        "8",
        "8H",
        "H8X2",
        "h8",
        "H-1",
        "H1.5",
        "H1 P5",
        "H1,P5",
        "H8]",
        "[H8]x",
        "[H8",
        "[]x3",
        "[[H1]x2]x2",
        "H\N{FULLWIDTH DIGIT THREE}",
        f"H{MAX_STEPS + 1}",
        f"H1E{MAX_STEPS}",
        "[H1P1R1]x34",
        "H" + "9" * 300,
        "[H1]x" + "9" * 300,
        "H1" * 101,
        "H1" * 100_000,
        "[H0]x" + "9" * 5_000,
    ],
)
def test_a_wrong_plan_is_refused_in_one_sentence(text):
    with pytest.raises(ValueError) as refusal:
        SamplePlan.parse(text)
    sentence = str(refusal.value)
    assert len(sentence) < 600
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("H8X2", "H8X2"),
        ("h8", "h8"),
        ("H-1", "H-1"),
        ("H0", "H0"),
        ("[H1]x0", "[H1]x0"),
        ("R3", "R3"),
        ("R1H7", "R1H7"),
        ("H101", "101"),
        ("[H1P1R1]x34", "[H1P1R1]x34"),
        (8.25, "8.25"),
        (None, "None"),
        (math.nan, "nan"),
        (["H8"], "H8"),
        (b"H8", "H8"),
    ],
)
def test_a_refusal_names_the_plan(text, named):
    with pytest.raises(ValueError) as refusal:
        SamplePlan.parse(text)
    assert named in str(refusal.value)


@pytest.mark.parametrize("blocks", ["", "RH", "HX", "h", "H" * (MAX_STEPS + 1)])
def test_blocks_are_checked_where_no_text_was_parsed(blocks):
    with pytest.raises(ValueError):
        SamplePlan(blocks)


def test_the_largest_plan_is_allowed():
    assert len(SamplePlan.parse(f"E{MAX_STEPS}")) == MAX_STEPS
    assert len(SamplePlan.parse("[H1P1R1]x33")) == 99


def test_counts_of_sliders_become_a_plan():
    assert str(SamplePlan.from_counts(1, 5, 3)) == "H1P5R3"
    assert str(SamplePlan.from_counts(pseudo=6, refiner=2)) == "P6R2"
    assert str(SamplePlan.from_counts(heun=8)) == "H8"
    assert str(SamplePlan.from_counts(heun=8.0)) == "H8"  # what JSON makes of a slider's 8
    assert str(SamplePlan.from_counts(4, 2, 1, solver="E")) == "E4P2R1"


@pytest.mark.parametrize(
    ("text", "solver", "counts"),
    [
        ("H1P5R3", "H", (1, 5, 3)),
        ("P6R2", "H", (0, 6, 2)),
        ("E25", "E", (25, 0, 0)),
        ("E4P2R1", "E", (4, 2, 1)),
        ("E25", "H", None),
        ("H8", "E", None),
        ("H1E1", "H", None),
        ("[H1P1R1]x3", "H", None),
    ],
)
def test_a_plan_of_sliders_tells_their_counts(text, solver, counts):
    plan = SamplePlan.parse(text)
    assert plan.counts(solver) == counts
    assert counts is None or SamplePlan.from_counts(*counts, solver) == plan


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {"refiner": 3},
        {"heun": -1},
        {"heun": 1.5},
        {"heun": math.nan},
        {"heun": math.inf},
        {"heun": True},
        {"heun": None},
        {"heun": "8"},
        {"heun": 1, "pseudo": 10**400},
        {"heun": 60, "pseudo": 60},
        {"heun": 1, "solver": "R"},
        {"heun": 1, "solver": "X"},
        {"heun": 1, "solver": ["H"]},
    ],
)
def test_wrong_counts_are_refused(counts):
    with pytest.raises(ValueError):
        SamplePlan.from_counts(**counts)


@pytest.mark.parametrize("t_start", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("text", ["H1", "H8", "H1P5R3"])
def test_the_time_grid_is_uniform_and_ends_exactly_at_the_data(text, t_start):
    plan = SamplePlan.parse(text)
    grid = plan.time_grid(t_start)
    assert len(grid) == len(plan) + 1
    assert grid[0] == t_start
    assert grid[-1] == 1.0
    steps = [after - before for before, after in zip(grid, grid[1:], strict=False)]
    assert steps == pytest.approx([(1 - t_start) / len(plan)] * len(plan), rel=1e-9)


def test_the_schedule_joins_up():
    plan = SamplePlan.parse("H1P5R3")
    blocks = list(plan.schedule(0.3))
    assert "".join(kind for kind, _, _ in blocks) == plan.kinds
    ends = [t + dt for _, t, dt in blocks]
    assert [0.3, *ends[:-1]] == pytest.approx([t for _, t, _ in blocks])
    assert ends[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("blocks", [5, None, ["H", "P"], ("H",), b"H", {"H": 1}, True])
def test_blocks_that_are_no_text_are_refused_by_value(blocks):
    with pytest.raises(ValueError, match="text, like HPPR, not ") as refusal:
        SamplePlan(blocks)
    assert repr(blocks) in str(refusal.value)


@pytest.mark.parametrize("t_start", ["x", None, True, [0.5], 1j, 10**400])
def test_a_start_time_that_is_no_number_is_refused(t_start):
    with pytest.raises(ValueError, match="t_start must be a number"):
        SamplePlan.parse("H8").time_grid(t_start)


@pytest.mark.parametrize("t_start", [math.nan, math.inf, -math.inf, -0.01, 1.01, 1.5])
def test_a_wrong_start_time_is_refused_by_value(t_start):
    with pytest.raises(ValueError, match=str(t_start)):
        SamplePlan.parse("H8").time_grid(t_start)
