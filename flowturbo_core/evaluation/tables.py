"""The tables of measurements in the README and in docs/, made from assets/benchmarks.

`make tables` writes them.
"""

import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flowturbo_core.data.postcards.scene import ATTRIBUTES
from flowturbo_core.plan import SamplePlan

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "assets" / "benchmarks"
_BEGIN, _END = "<!-- {name}: written by `make tables` -->", "<!-- end of {name} -->"

Row = dict[str, Any]


def quality_table(content: dict[str, Any], *others: dict[str, Any]) -> str:
    """Return what `evaluate` measured, a line a plan, with 95% intervals.

    Each of `others` is a further run on the same samples. It begins with a plan that the first
    run has too, and that plan's time converts the times of its other plans.
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
        "median error": lambda row: f"{row['solver_error_median']:.3f}",
    }
    count, floor = content["num_samples"], content["floor"]
    return _table(columns, rows) + (
        f"\n{content['model']}, guidance {content['guidance_scale']:g}. Every plan makes {count} "
        "samples from the same noises. The Frechet distance compares them with "
        f"{content['reference_scenes']} drawn scenes. The solver error is measured on 64 noises "
        "in float32: one column has the root mean square, one the median. All else is computed "
        f"in {content['dtype']}. Machine: {content['machine']}, torch "
        f"{content['versions']['torch']}. Brackets hold 95% bootstrap intervals. {count} drawn "
        f"scenes have a Frechet distance of {floor['drawn']['frechet_distance']:.3f} themselves, "
        "because they are few. Once the autoencoder has encoded and decoded them, it is "
        f"{floor['reconstructed']['frechet_distance']:.3f}, and the evaluator tells "
        f"{_percent(floor['reconstructed'], 'class')} of their classes."
        + "".join(
            f" A second run made the last {len(other['rows']) - 1} rows. It ran `{plan}` too, and "
            "its times are scaled by the ratio of the two times of this plan."
            for other, plan in zip(others, shared, strict=True)
        )
        + f"{_describe_check(content)}\n"
    )


def _check_alike(content: dict[str, Any], *others: dict[str, Any]) -> None:
    """Refuse runs that are not of the same model, samples and circumstances."""
    names = ("weights", "guidance_scale", "seed", "num_samples", "scenes", "reference_scenes")
    for name in (*names, "dtype", "machine", "versions"):
        if any(other[name] != content[name] for other in others):
            raise ValueError(f"runs that differ in {name} make no table together")


def _describe_check(content: dict[str, Any]) -> str:
    """Return how much the solver error's reference depends on its number of steps, if measured."""
    if content["reference"] is None:
        return ""
    moved, changed, most = (
        content["reference"][name] for name in ("moved", "errors_changed", "most_steps")
    )
    return (
        f" The reference of the solver error has 100 steps, and up to {most} from noises that "
        f"need more. With twice as many it moves by {moved:.2%} of the smallest error, and "
        f"no error changes by more than {changed:.2%}."
    )


def pairs_table(*contents: dict[str, Any]) -> str:
    """Return how the best plan that refines differs from plans that do not, a line a plan.

    The best plan is the one of the first run that refines and has the least solver error. Further
    runs compare the same plan with others.
    """
    _check_alike(*contents)
    best = _best(contents[0])
    pairs = [pair for content in contents for pair in content["pairs"] if pair["plan"] == best]
    columns: dict[str, Callable[[Row], str]] = {
        f"`{best}` against": lambda pair: f"`{pair['other']}`",
        "time ratio": lambda pair: f"{pair['time']:.2f}",
        "difference in Frechet distance": lambda pair: _with_interval(
            pair, "frechet_distance_difference", "+"
        ),
        "difference in solver error": lambda pair: _with_interval(
            pair, "solver_error_difference", "+"
        ),
        "smaller error on": lambda pair: f"{64 * pair['nearer']:.0f} of 64",
    }
    return _table(columns, pairs) + (
        f"\nEach row compares `{best}` with another plan on the same noises. The time ratio is the "
        f"time of `{best}` divided by that of the other plan. A difference is the value of "
        f"`{best}` minus that of the other plan, so a negative one favours `{best}`. Brackets hold "
        "95% bootstrap intervals over pairs from the same noise. The last column counts the noises "
        f"on which `{best}` has the smaller solver error. {_certain(pairs)}\n"
    )


def _best(content: dict[str, Any]) -> str:
    """Return the plan of a run that refines and has the least solver error."""
    refining = [row for row in content["rows"] if row["refiner_evaluations"]]
    return min(refining, key=lambda row: row["solver_error"])["plan"]


def _certain(pairs: Sequence[Row]) -> str:
    """Return which differences have an interval that does not include zero."""
    said = []
    for name in ("Frechet distance", "solver error"):
        key = f"{name.lower().replace(' ', '_')}_difference_interval"
        for word, is_so in (("lower", lambda i: i[1] < 0), ("higher", lambda i: i[0] > 0)):
            others = [f"`{pair['other']}`" for pair in pairs if is_so(pair[key])]
            if others:
                said.append(f"The {name} is measurably {word} than that of {', '.join(others)}.")
    if not said:
        return "All intervals include zero: no difference is measurable."
    return f"{' '.join(said)} All other intervals include zero: no difference is measurable there."


def trade_table(quality: dict[str, Any], speed: dict[str, Any]) -> str:
    """Return the README's six plans: what each costs, and what the pictures are worth."""
    measured = {row["plan"]: row for row in quality["rows"]}
    times = {(row["plan"], row["mode"]): row for row in speed["rows"]}
    columns: dict[str, Callable[[Row], str]] = {
        "plan": lambda row: f"`{row['plan']}`",
        "predictor + refiner evaluations": _evaluations,
        **{
            f"time, {mode}": lambda row, mode=mode: f"{times[row['plan'], mode]['ratio']:.2f}"
            for mode in ("eager", "compiled")
        },
        "Frechet distance": lambda row: _with_interval(row, "frechet_distance"),
        "solver error": lambda row: f"{row['solver_error']:.3f}",
    }
    best = _best(quality)
    against = {pair["other"]: pair for pair in quality["pairs"] if pair["plan"] == best}
    heun, *_, euler = TRADE
    share = times[best, "eager"]["ratio"]
    return _table(columns, [measured[plan] for plan in TRADE]) + (
        f"\n**`{best}` takes {share:.2f} of the time of `{heun}`; its Frechet distance "
        f"{_difference(against[heun])}, and {_difference(against[euler])}.**\n\n"
        f"{quality['model']}, {quality['machine']}, {quality['dtype']}, {quality['num_samples']} "
        f"samples a plan. Times are shares of the time of `{heun}` in eager mode. The Frechet "
        "distance compares pictures with drawn scenes, the solver error compares latents with the "
        "exact end of the flow; lower is better. Brackets hold 95% bootstrap intervals.\n"
    )


def _difference(pair: Row) -> str:
    """Return how a Frechet distance compares with another: measurably, if zero is outside."""
    low, high = pair["frechet_distance_difference_interval"]
    words = "does not measurably differ from"
    if low > 0 or high < 0:
        words = f"is measurably {'lower' if high < 0 else 'higher'} than"
    return (
        f"{words} that of `{pair['other']}` ({pair['frechet_distance_difference']:+.3f} "
        f"[{low:+.3f}, {high:+.3f}])"
    )


def text_table(trained: dict[str, Any], held_out: dict[str, Any], speed: dict[str, Any]) -> str:
    """Return what was measured of a model of texts, a line a plan (FlowTurbo's table 1b).

    The rows of `trained` come in pairs: a plan of Heun blocks, then the FlowTurbo plan to replace
    it. `held_out` is a run on combinations that the model was not trained on. `speed` is a run of
    `bench`, which tells what an evaluation costs.
    """
    rows = trained["rows"]
    partners = {row["plan"]: heun for heun, row in zip(rows[::2], rows[1::2], strict=True)}
    pairs = {(pair["plan"], pair["other"]): pair for pair in trained["pairs"]}

    def beside(show: Callable[[Row, Row], str]) -> Callable[[Row], str]:
        """Return what shows a FlowTurbo plan beside its partner, and leaves Heun's rows empty."""

        def of_pair(row: Row) -> str:
            partner = partners.get(row["plan"])
            return show(pairs[row["plan"], partner["plan"]], partner) if partner else ""

        return of_pair

    columns: dict[str, Callable[[Row], str]] = {
        "plan": lambda row: f"`{row['plan']}`",
        "predictor + refiner evaluations": _evaluations,
        "ms/img": lambda row: f"{row['ms_per_image']:.1f}",
        "time / Heun plan's": beside(
            lambda pair, partner: f"{pair['time']:.2f} of `{partner['plan']}`"
        ),
        "Frechet distance": lambda row: _with_interval(row, "frechet_distance"),
        "distance / Heun plan's": beside(_ratio_of_distances),
        **{f"{name} right": partial(_percent, name=name) for name in ATTRIBUTES},
    }
    floor = trained["floor"]["reconstructed"]["frechet_distance"]
    told = ", ".join(f"{name} {_percent(held_out['rows'][0], name)}" for name in ATTRIBUTES)
    return _table(columns, rows) + (
        f"\n{trained['model']}, guidance {trained['guidance_scale']:g}, {trained['dtype']}, "
        f"{trained['machine']}, torch {trained['versions']['torch']}. Every plan draws "
        f"{trained['num_samples']} fresh prompts from the same noises. The Frechet distance "
        f"compares the pictures with {trained['reference_scenes']} drawn scenes. Each FlowTurbo "
        "plan follows the plan of Heun blocks that it replaces, and two columns compare it with "
        "that plan. Brackets hold 95% bootstrap intervals; those of a comparison are over pairs "
        f"from the same noise. {trained['num_samples']} scenes that the autoencoder has encoded "
        f"and decoded have a Frechet distance of {floor:.3f}. The last columns show how often the "
        "evaluator finds in a picture what its prompt names. On "
        f"{held_out['num_samples']} prompts of combinations held out of all training, "
        f"`{held_out['rows'][0]['plan']}` reaches {told}. One evaluation of the refiner takes "
        f"{_refiner_costs(speed)} of the time of one of the predictor.\n"
    )


def refiner_cost(speed: dict[str, Any], mode: str) -> float:
    """Return the time of a refiner evaluation as a share of a predictor's.

    It is the median over the plans that were run in `mode`.
    """
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
    # The two distances are close, so the interval of their ratio is that of the difference, scaled.
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
        "range": lambda row: f"{row['ms_min']:.1f} - {row['ms_max']:.1f}",
        f"time / {first['plan']} {first['mode']}": lambda row: f"{row['ratio']:.2f}",
        "predictor": lambda row: f"{row['predictor_ms_per_image']:.1f}",
        "refiner": lambda row: f"{row['refiner_ms_per_image']:.1f}",
        "decoding": lambda row: f"{row['decode_ms_per_image']:.1f}",
    }
    return _table(columns, content["rows"]) + (
        f"\n{content['model']}, batches of {content['batch_size']}, {content['dtype']}, "
        f"{content['machine']}, torch {content['versions']['torch']}. The plans took turns for "
        f"{content['repeats']} rounds. Times are medians in milliseconds an image; the last three "
        "columns say where they went.\n"
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
        f"\nEach cell holds a solver error: 64 noises, guidance {content['guidance_scale']:g}, "
        "float32. After it comes the difference from the first row, with a 95% bootstrap "
        "interval. In the first row no refiner corrects the velocity, and R blocks carry it on "
        f"unchanged. {content['machine']}, torch {content['versions']['torch']}.\n"
    )


def _error(row: Row) -> str:
    error = f"{row['solver_error']:.4f}"
    if row["difference"] == 0:  # the row that the others are compared with
        return error
    return f"{error}, {_with_interval(row, 'difference', '+', 4)}"


def _refiner(row: Row) -> str:
    """Return the name of a refiner: that of the run that trained it."""
    if "variant" not in row:
        return "none"
    folder = Path(row["refiner"])
    name = "bundled" if folder.name == "refiner" else folder.parent.name
    return name if row["variant"] == "consistent" else f"{name}, {row['variant']}"


def _evaluations(row: Row) -> str:
    counts = f"{row['predictor_evaluations']} + {row['refiner_evaluations']}"
    # A cache skips some evaluations, and how many depends on the picture.
    return f"up to {counts}" if row["plan"].startswith("fbc:") else counts


def _with_interval(row: Row, name: str, sign: str = "", digits: int = 3) -> str:
    low, high = row[f"{name}_interval"]
    form = f"{sign}.{digits}f"
    return f"{row[name]:{form}} [{low:{form}}, {high:{form}}]"


def _table(columns: dict[str, Callable[[Row], str]], rows: Sequence[Row]) -> str:
    lines = [columns, ["---"] * len(columns)]
    lines += [[show(row) for show in columns.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# The plans of the README's table: the baseline first, and last a solver of about the same price.
TRADE = ("H8", "H2P4R2", "H1P5R3", "H1P5R4", "H1P7", "E9")

_QUALITY = ("postcards-sit-quality.json", "postcards-sit-quality-others.json")
_TEXTS = tuple(f"postcards-t2i-{name}.json" for name in ("quality", "held-out", "speed"))
# The tables of each page by name: the files that a table is made from, and the function for it.
PAGES: dict[str, dict[str, tuple[tuple[str, ...], Callable[..., str]]]] = {
    "README.md": {"trade": ((_QUALITY[0], "postcards-sit-speed.json"), trade_table)},
    "docs/measurements.md": {
        "quality": (_QUALITY, quality_table),
        "pairs": (_QUALITY, pairs_table),
        "speed": (("postcards-sit-speed.json",), speed_table),
        "released size": (("sit-xl-2-speed.json",), speed_table),
        "ablations": (("postcards-sit-ablations.json",), quality_table),
        "refiners": (("postcards-sit-refiners.json",), refiners_table),
        "texts": (_TEXTS, text_table),
    },
}


def with_tables(page: str, text: str, benchmarks: Path = BENCHMARKS) -> str:
    """Return the text of one of `PAGES` with each of its tables made anew between its marks.

    Raises ValueError if a mark is missing.
    """
    for name, (files, make) in PAGES[page].items():
        begin, end = _BEGIN.format(name=name), _END.format(name=name)
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{page} has no place for the table {name!r}: {begin} ... {end}")
        table = make(*(json.loads((benchmarks / file).read_text()) for file in files))
        text = f"{before}{begin}\n{table}{end}{after}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        file = ROOT / page
        file.write_text(with_tables(page, file.read_text()))
