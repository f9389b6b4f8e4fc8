"""The README's tables of measurements, made from assets/benchmarks: `make tables` writes them."""

import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flowturbo_core.models.evaluator import ATTRIBUTES
from flowturbo_core.plan import SamplePlan

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "assets" / "benchmarks"
_BEGIN, _END = "<!-- {name}: written by `make tables` -->", "<!-- end of {name} -->"

Row = dict[str, Any]


def quality_table(content: dict[str, Any], *others: dict[str, Any]) -> str:
    """Return what `evaluate` measured, a line a plan, with its 95% intervals.

    Other runs, of the same samples, begin with a plan that the first has too: their times are
    told by it.
    """
    _check_alike(content, *others)
    rows = list(content["rows"])
    first, shared = rows[0]["plan"], [other["rows"][0]["plan"] for other in others]
    for other, plan in zip(others, shared, strict=True):
        (common,) = (row["ratio"] for row in content["rows"] if row["plan"] == plan)
        rows += [row | {"ratio": row["ratio"] * common} for row in other["rows"][1:]]
    columns: dict[str, Callable[[Row], str]] = {
        "plan": lambda row: f"`{row['plan']}`",
        "predictor + refiner evaluations": _evaluations,
        f"time / {first}": lambda row: f"{row['ratio']:.2f}",
        "Frechet distance": lambda row: _with_interval(row, "frechet_distance"),
        "class accuracy": partial(_percent, name="class"),
        "solver error": lambda row: _with_interval(row, "solver_error"),
        "its median": lambda row: f"{row['solver_error_median']:.3f}",
    }
    floor, sizes = content["floor"], (content["num_samples"], content["reference_scenes"])
    return _table(columns, rows) + (
        f"\n{content['model']}, {sizes[0]} samples a plan from the same noises against {sizes[1]} "
        "drawn scenes, and 64 noises in float32 for the solver error, their root mean square and "
        "median; else "
        f"guidance {content['guidance_scale']:g}, {content['dtype']}, {content['machine']}, torch "
        f"{content['versions']['torch']}. In brackets: 95% bootstrap intervals. As many scenes "
        f"as drawn have a Frechet distance of {floor['drawn']['frechet_distance']:.3f}, since they "
        "are so few, and once the autoencoder has encoded and decoded them "
        f"{floor['reconstructed']['frechet_distance']:.3f}; their classes are told with "
        f"{_percent(floor['reconstructed'], 'class')}."
        + "".join(
            f" The last {len(other['rows']) - 1} are of a further run, with `{plan}`, by which "
            "their times are told."
            for other, plan in zip(others, shared, strict=True)
        )
        + f"{_checked(content)}\n"
    )


def _check_alike(content: dict[str, Any], *others: dict[str, Any]) -> None:
    """Refuse runs that are not of the same model, samples and circumstances."""
    names = ("weights", "guidance_scale", "seed", "num_samples", "scenes", "reference_scenes")
    for name in (*names, "dtype", "machine", "versions"):
        if any(other[name] != content[name] for other in others):
            raise ValueError(f"runs that differ in {name} make no table together")


def _checked(content: dict[str, Any]) -> str:
    """Return what became of the solver error's reference with half its steps, if that was done."""
    if content["reference"] is None:
        return ""
    moved, changed, most = (
        content["reference"][name] for name in ("moved", "errors_changed", "most_steps")
    )
    return (
        f" The solver error's own reference (100 steps, up to {most} from noises that need more) "
        f"moves by {moved:.2%} of the smallest error when its steps are halved, and no error by "
        f"more than {changed:.2%}."
    )


def pairs_table(*contents: dict[str, Any]) -> str:
    """Return how the refining plan with the least solver error differs from those that do not.

    The plan is the first run's best; further runs have it beside other plans.
    """
    _check_alike(*contents)
    refining = [row for row in contents[0]["rows"] if row["refiner_evaluations"]]
    best = min(refining, key=lambda row: row["solver_error"])["plan"]
    pairs = [pair for content in contents for pair in content["pairs"] if pair["plan"] == best]
    columns: dict[str, Callable[[Row], str]] = {
        f"`{best}` beside": lambda pair: f"`{pair['other']}`",
        "its time": lambda pair: f"{pair['time']:.2f}",
        "Frechet distance": lambda pair: _with_interval(pair, "frechet_distance_difference", "+"),
        "solver error": lambda pair: _with_interval(pair, "solver_error_difference", "+"),
        "nearer on": lambda pair: f"{64 * pair['nearer']:.0f} of 64",
    }
    return _table(columns, pairs) + (
        f"\nThe time of `{best}` as a share of the other's, and what it has more, with 95% "
        "bootstrap intervals over pairs from the same noise: below zero, it is the better one; "
        "and on how many noises its solver error is the smaller one. "
        f"{_certain(pairs)}\n"
    )


def _certain(pairs: Sequence[Row]) -> str:
    """Return which of the differences have an interval that leaves out zero."""
    said = []
    for name in ("Frechet distance", "solver error"):
        key = f"{name.lower().replace(' ', '_')}_difference_interval"
        for word, is_so in (("lower", lambda i: i[1] < 0), ("higher", lambda i: i[0] > 0)):
            others = [f"`{pair['other']}`" for pair in pairs if is_so(pair[key])]
            if others:
                said.append(f"its {name} is {word} than that of {', '.join(others)}")
    if not said:
        return "No interval leaves out zero."
    return f"Where an interval leaves out zero, {'; '.join(said)}; elsewhere it may be either."


def text_table(trained: dict[str, Any], held_out: dict[str, Any], speed: dict[str, Any]) -> str:
    """Return what was measured of a model of texts: FlowTurbo's plans beside Heun's.

    The first run of `evaluate` has them in turn, Heun's first (FlowTurbo's table 1b); the second
    is of combinations that the model was not trained on. `bench` tells what evaluations cost.
    """
    rows = trained["rows"]
    partners = {row["plan"]: its for its, row in zip(rows[::2], rows[1::2], strict=True)}
    pairs = {(pair["plan"], pair["other"]): pair for pair in trained["pairs"]}

    def beside(show: Callable[[Row, Row], str]) -> Callable[[Row], str]:
        """Return what shows a plan's pair with its partner, and nothing of a partner."""

        def of_pair(row: Row) -> str:
            partner = partners.get(row["plan"])
            return show(pairs[row["plan"], partner["plan"]], partner) if partner else ""

        return of_pair

    columns: dict[str, Callable[[Row], str]] = {
        "plan": lambda row: f"`{row['plan']}`",
        "predictor + refiner evaluations": _evaluations,
        "ms/img": lambda row: f"{row['ms_per_image']:.1f}",
        "time / its partner's": beside(
            lambda pair, partner: f"{pair['time']:.2f} of `{partner['plan']}`"
        ),
        "Frechet distance": lambda row: _with_interval(row, "frechet_distance"),
        "distance / its partner's": beside(_ratio_of_distances),
        **{f"{name} told": partial(_percent, name=name) for name in ATTRIBUTES},
    }
    floor = trained["floor"]["reconstructed"]["frechet_distance"]
    told = ", ".join(f"{name} {_percent(held_out['rows'][0], name)}" for name in ATTRIBUTES)
    return _table(columns, rows) + (
        f"\n{trained['model']}, {trained['num_samples']} fresh prompts from the same noises "
        f"against {trained['reference_scenes']} drawn scenes, guidance "
        f"{trained['guidance_scale']:g}, "
        f"{trained['dtype']}, {trained['machine']}, torch {trained['versions']['torch']}. In "
        "brackets: 95% bootstrap intervals, of a plan and its partner over pairs from the same "
        f"noise. As many scenes as the autoencoder gives back have {floor:.3f}. The attributes are "
        "those that a prompt names, as the evaluator tells them. On "
        f"{held_out['num_samples']} prompts of combinations held out of all training, by "
        f"`{held_out['rows'][0]['plan']}`: {told}. An evaluation of the refiner takes "
        f"{_refiner_costs(speed)} of the time of one of the predictor.\n"
    )


def refiner_cost(speed: dict[str, Any], mode: str) -> float:
    """Return what an R evaluation takes as a share of another: the median over plans in a mode."""
    return statistics.median(
        (row["refiner_ms_per_image"] / plan.refiner_evaluations)
        / (row["predictor_ms_per_image"] / plan.predictor_evaluations)
        for row in speed["rows"]
        if row["mode"] == mode and (plan := SamplePlan.parse(row["plan"])).refiner_evaluations
    )


def _refiner_costs(speed: dict[str, Any]) -> str:
    modes = dict.fromkeys(row["mode"] for row in speed["rows"])
    return " and ".join(f"{refiner_cost(speed, mode):.3f} ({mode})" for mode in modes)


def _ratio_of_distances(pair: Row, partner: Row) -> str:
    # Of two distances this close, the interval of the ratio is that of the difference, scaled.
    name = "frechet_distance_difference"
    values = [pair[name], *pair[f"{name}_interval"]]
    ratio, low, high = (1 + value / partner["frechet_distance"] for value in values)
    return f"{ratio:.3f} [{low:.3f}, {high:.3f}]"


def _percent(row: Row, name: str) -> str:
    return f"{100 * row[f'{name}_accuracy']:.1f}%"


def speed_table(content: dict[str, Any]) -> str:
    """Return what `bench` measured, a line a plan and mode."""
    first = content["rows"][0]
    columns: dict[str, Callable[[Row], str]] = {
        "plan": lambda row: f"`{row['plan']}`",
        "mode": lambda row: row["mode"],
        "ms/img": lambda row: f"{row['ms_per_image']:.1f}",
        "from - to": lambda row: f"{row['ms_min']:.1f} - {row['ms_max']:.1f}",
        f"time / {first['plan']} {first['mode']}": lambda row: f"{row['ratio']:.2f}",
        "predictor": lambda row: f"{row['predictor_ms_per_image']:.1f}",
        "refiner": lambda row: f"{row['refiner_ms_per_image']:.1f}",
        "decoding": lambda row: f"{row['decode_ms_per_image']:.1f}",
    }
    return _table(columns, content["rows"]) + (
        f"\n{content['model']}, batches of {content['batch_size']}, {content['repeats']} rounds in "
        f"turn, {content['dtype']}, {content['machine']}, torch {content['versions']['torch']}; "
        "medians.\n"
    )


def refiners_table(content: dict[str, Any]) -> str:
    """Return what `compare-refiners` measured, a line a refiner, a column a plan."""
    plans = list(dict.fromkeys(row["plan"] for row in content["rows"]))
    by_refiner: dict[str, dict[str, Row]] = {}
    for row in content["rows"]:
        by_refiner.setdefault(_refiner(row), {})[row["plan"]] = row
    columns: dict[str, Callable[[Row], str]] = {"refiner": lambda line: line["name"]}
    for plan in plans:
        columns[f"`{plan}`"] = lambda line, plan=plan: _error(line[plan])
    lines = [{"name": name} | rows for name, rows in by_refiner.items()]
    return _table(columns, lines) + (
        f"\nSolver errors on 64 noises at guidance {content['guidance_scale']:g}, float32, and how "
        "much more than none, which carries the velocity on as it is; in brackets 95% bootstrap "
        f"intervals. {content['machine']}, torch {content['versions']['torch']}.\n"
    )


def _error(row: Row) -> str:
    error = f"{row['solver_error']:.4f}"
    if row["difference"] == 0:  # it is what the others are compared with
        return error
    return f"{error}, {_with_interval(row, 'difference', '+', 4)}"


def _refiner(row: Row) -> str:
    """Return what a refiner is called: its folder's name, whose training it is."""
    if "variant" not in row:
        return "none"
    folder = Path(row["refiner"])
    name = "bundled" if folder.name == "refiner" else folder.parent.name
    return name if row["variant"] == "consistent" else f"{name}, {row['variant']}"


def _evaluations(row: Row) -> str:
    counts = f"{row['predictor_evaluations']} + {row['refiner_evaluations']}"
    # A cache skips most of an evaluation, when it does.
    return f"up to {counts}" if row["plan"].startswith("fbc:") else counts


def _with_interval(row: Row, name: str, sign: str = "", digits: int = 3) -> str:
    low, high = row[f"{name}_interval"]
    form = f"{sign}.{digits}f"
    return f"{row[name]:{form}} [{low:{form}}, {high:{form}}]"


def _table(columns: dict[str, Callable[[Row], str]], rows: Sequence[Row]) -> str:
    lines = [columns, ["---"] * len(columns)]
    lines += [[show(row) for show in columns.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# Each table of the README: its name there, the files it is made from, and how.
TABLES = {
    "quality": (("postcards-sit-quality.json", "postcards-sit-quality-others.json"), quality_table),
    "pairs": (("postcards-sit-quality.json", "postcards-sit-quality-others.json"), pairs_table),
    "speed": (("postcards-sit-speed.json",), speed_table),
    "released size": (("sit-xl-2-speed.json",), speed_table),
    "ablations": (("postcards-sit-ablations.json",), quality_table),
    "refiners": (("postcards-sit-refiners.json",), refiners_table),
    "texts": (
        tuple(f"postcards-t2i-{name}.json" for name in ("quality", "held-out", "speed")),
        text_table,
    ),
}


def with_tables(text: str, benchmarks: Path = BENCHMARKS) -> str:
    """Return the README's text with each table made anew between its marks.

    Raises ValueError if a mark is missing.
    """
    for name, (files, make) in TABLES.items():
        begin, end = _BEGIN.format(name=name), _END.format(name=name)
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"the README has no place for the table {name!r}: {begin} ... {end}")
        table = make(*(json.loads((benchmarks / file).read_text()) for file in files))
        text = f"{before}{begin}\n{table}{end}{after}"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text()))
