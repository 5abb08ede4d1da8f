"""`vgg-parity bench growth`: how time and memory of training and of `check` grow with the work, with fitted slopes."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import numpy as np

from parity import machine
from parity.arrays import Array
from parity.backend.child_main import __file__ as child_main
from parity.backend.registry import FRAMEWORKS, spoken_name
from parity.benchmark.growth import LINE, POWER, fit
from parity.benchmark.interleaved_timing import Contest, interval
from parity.cli.bench_contestants import MOST_IMAGES, load_images, python_of, run_program, start_worker
from parity.cli.bench_log import describe_conditions
from parity.cli.command import Options, failures, flag, positive, refuse
from parity.errors import InputError, suggest
from parity.experiments.tables import conditions, counted
from parity.network import articles
from parity.progress import Console, Phases
from parity.recipe import presets
from parity.recipe.recipe import Recipe, changed
from parity.training.run_folder import RunFolder

NETWORK, RECIPE, BATCH, ROUNDS = "vgg16_bn_drop@0.25", "article", 64, 3
"""The defaults."""

LISTS = {
    "batch_sizes": "16,32,64,128,256",
    "widths": "0.125,0.25,0.5,1",
    "processes": "1,2",
    "check_steps": "2,4,8",
}
"""Option -> its default points."""

WARM_UP, UPDATES = 2, 10
"""Updates of every training before the clock counts; and all updates of a training in several processes, which logs each of them."""

CHECK = "check"
"""The contestant of the parts that time `vgg-parity check`."""


class Part(NamedTuple):
    """A part of the benchmark: what takes time, the work that grows, its unit in slopes, and the fit of the time.

    Memory has straight lines.
    """

    title: str
    work: str
    unit: str
    kind: str


PARTS = {
    "batch": Part("a training step", "batch size", "an image", LINE),
    "width": Part("a training step", "parameters", "a parameter", POWER),
    "processes": Part("a training step", "processes", "", ""),
    "check-width": Part("a check", "parameters", "a parameter", POWER),
    "check-steps": Part("a check", "steps", "a step", LINE),
}
"""Name of a part -> what it measures, in the order of the tables."""


@dataclass(frozen=True)
class _Point:
    """One `contestant` with an amount of `work`. A `turn` measures its seconds and its peak memory, in bytes. `facts` are for its row."""

    contestant: str
    work: int
    facts: Mapping[str, Any]
    turn: Callable[[], tuple[float, int]]


@dataclass
class _Growth:
    """The measurement: what is asked for, and the versions and the settings of `check` that its processes report."""

    options: Options
    console: Console
    frameworks: list[str]
    points: Mapping[str, list[Any]]
    network: str
    recipe: Recipe
    threads: int
    versions: dict[str, Mapping[str, str]] = field(default_factory=dict)
    checked: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> AbstractContextManager[list[_Point]]:
        """Return the points of a part. Their processes live until the context ends."""
        makers = {"batch": self._batches, "width": self._widths, "processes": self._processes}
        return contextlib.nullcontext(self._checks(name)) if name.startswith(CHECK) else makers[name]()

    def count(self, name: str) -> int:
        """Return the number of points of a part."""
        lists = {"batch": "batch_sizes", "width": "widths", "check-width": "widths", "check-steps": "check_steps"}
        return len(self.points[lists.get(name, name)]) * (1 if name.startswith(CHECK) else len(self.frameworks))

    def _batches(self) -> AbstractContextManager[list[_Point]]:
        return self._trained([(size, self.network, size) for size in self.points["batch_sizes"]])

    def _widths(self) -> AbstractContextManager[list[_Point]]:
        return self._trained([(count, name, self.recipe.batch_size) for count, name in self.cousins().items()])

    def cousins(self) -> dict[int, str]:
        """Return number of parameters -> name of the network of this width. `InputError` if two widths are the same network."""
        names = [articles.with_width(self.network, width) for width in self.points["widths"]]
        found = {articles.get_network(name).trainable_count: name for name in names}
        if len(found) < len(names):
            raise InputError(f"--widths: some of {', '.join(names)} have equally many parameters: give other widths")
        return found

    @contextlib.contextmanager
    def _trained(self, cases: Sequence[tuple[int, str, int]]) -> Iterator[list[_Point]]:
        """Yield the points of training for `cases` (work, network, batch size), each with a process of its own."""
        most = max(size for *_, size in cases)
        images = load_images(self.options, self.console, articles.get_network(self.network), most)
        with contextlib.ExitStack() as stack:
            wanted = [(name, *case) for case in cases for name in self.frameworks]
            workers = [
                stack.enter_context(start_worker(self.options, name, self.threads)) for name, *_ in wanted
            ]  # they start together
            points = []
            for (name, work, network, size), worker in zip(wanted, workers, strict=True):
                self.versions[name] = worker.versions()
                worker.bench(
                    articles.get_network(network), changed(self.recipe, batch_size=size), *_few(images, 2 * size)
                )
                worker.bench_train(WARM_UP, True)
                steps = max(self.options.steps, most // size)

                def turn(worker: Any = worker, steps: int = steps, size: int = size) -> tuple[float, int]:
                    return size / worker.bench_train(steps, True), worker.memory()

                points.append(_Point(name, work, _facts(network, size), turn))
            yield points

    @contextlib.contextmanager
    def _processes(self) -> Iterator[list[_Point]]:
        with tempfile.TemporaryDirectory() as folder:
            facts = _facts(self.network, self.recipe.batch_size)
            yield [
                _Point(name, count, facts, partial(self._train, name, count, Path(folder)))
                for count in self.points["processes"]
                for name in self.frameworks
            ]

    def _train(self, framework: str, processes: int, folder: Path) -> tuple[float, int]:
        """Run `vgg-parity train` once in several processes. Return the seconds of an update, and the peak memory of all processes."""
        run, logs = (Path(tempfile.mkdtemp(dir=folder)) / name for name in ("run", "logs"))
        flags = {
            "framework": framework,
            "network": self.network,
            "recipe": self.options.recipe or RECIPE,
            "epochs": 1,
            "batch-size": self.recipe.batch_size,
            "train-limit": UPDATES * self.recipe.batch_size,
            "test-limit": self.recipe.batch_size,
            "threads": max(1, self.threads // processes),
            "output": run,
        }
        module, words = "parity.cli.entry", ["train", *self._flags(flags), "--json"]
        if processes > 1:
            own = {"paddle": ("paddle.distributed.launch", "--log_dir", str(logs))}
            launcher, *first = own.get(framework, ("torch.distributed.run", "--standalone"))
            module, words = launcher, [*first, "--nproc_per_node", str(processes), child_main, "-1", module, *words]
        written = run_program(module, words, python_of(self.options, framework), [logs / "workerlog.0"])
        found = _last_json(written)
        self.versions[framework] = found["versions"]
        seconds = [line["seconds"] for line in RunFolder.open(run).metrics("batch")]
        return (seconds[-1] - seconds[WARM_UP - 1]) / (UPDATES - WARM_UP), found["peak_memory_bytes"]

    def _checks(self, name: str) -> list[_Point]:
        """Return the points of `vgg-parity check`: against parameters, with the fewest steps, or against steps."""
        steps = self.points["check_steps"]
        cases = (
            [(count, cousin, steps[0]) for count, cousin in self.cousins().items()]
            if name == "check-width"
            else [(count, self.network, count) for count in steps]
        )
        return [
            _Point(CHECK, work, _facts(network) | {"steps": count}, partial(self._check, network, count))
            for work, network, count in cases
        ]

    def _check(self, network: str, steps: int) -> tuple[float, int]:
        """Run `vgg-parity check` once. Return its seconds without the start of the frameworks, and the peak memory of all its processes."""
        pythons = {f"{name}-python": python_of(self.options, name) for name in ("paddle", "torch")}
        flags = self._flags({"network": network, "recipe": self.options.recipe, "steps": steps} | pythons)
        found = _last_json(run_program("parity.cli.entry", ["check", *flags, "--json"]))
        for lane, versions in found["lanes"].items():
            self.versions[lane] = versions
        self.checked = {name: found[name] for name in ("dtype", "batch_size", "threads")}
        return found["seconds"], sum(found["peak_memory_bytes"].values())

    def _flags(self, flags: Mapping[str, object]) -> list[str]:
        common = {name: getattr(self.options, name.replace("-", "_")) for name in ("data", "data-dir", "device")}
        everything = {**flags, **common}
        return [word for name, value in everything.items() if value is not None for word in (f"--{name}", str(value))]


def _few(arrays: tuple[Array, Array], count: int) -> tuple[Array, Array]:
    """Return the first `count` images and labels; if there are fewer, they repeat."""
    images, labels = arrays
    which = np.arange(count) % len(labels)
    return images[which], labels[which]


def _facts(network: str, batch_size: int | None = None) -> dict[str, Any]:
    facts = {"network": network, "parameters": articles.get_network(network).trainable_count}
    return facts | ({"batch_size": batch_size} if batch_size else {})


def _last_json(written: str) -> dict[str, Any]:
    """Return the result that a command wrote: a launcher and its processes may write lines after it."""
    found: dict[str, Any] = json.loads([line for line in written.splitlines() if line.startswith("{")][-1])
    return found


def measure_growth(options: Options, console: Console, frameworks: list[str]) -> dict[str, Any]:
    """Measure the parts that `options` names, one after the other. Return their points and fits, and the conditions."""
    parts = _parts(options, frameworks)
    growth = _plan(options, console, frameworks, parts)
    before = machine.load_average()
    console.say(
        f"{growth.network} on {machine.describe()}, {growth.threads} threads each; load average before: {before}"
    )
    rounds, found = options.rounds or ROUNDS, {}
    total = sum(growth.count(name) for name in parts) * rounds
    with failures(), Phases(total, "starting the frameworks") as phases:
        for name in parts:
            with growth.part(name) as points:
                rows = _measure(points, rounds, partial(_begin, phases, name))
            said = {"title": PARTS[name].title, "work": PARTS[name].work}
            found[name] = said | {"points": rows, "fits": make_fits(name, rows), "ratios": make_ratios(name, rows)}
    return {
        "what": "growth",
        "network": growth.network,
        "recipe": growth.recipe.name,
        "batch_size": growth.recipe.batch_size,
        "steps": options.steps,
        "rounds": rounds,
        "threads": growth.threads,
        "device": options.device,
        "versions": dict(sorted(growth.versions.items())),
        "check": growth.checked,
        "parts": found,
    }


def _begin(phases: Phases, part: str, point: _Point) -> None:
    phases.begin(f"{part}, {spoken_name(point.contestant)}, {point.work:,} {PARTS[part].work}")


def _measure(points: Sequence[_Point], rounds: int, begin: Callable[[_Point], None]) -> list[dict[str, Any]]:
    """Give every point a turn in each round. Return a row for each point."""
    memory: dict[str, list[int]] = {}

    def turn(name: str, point: _Point) -> float:
        begin(point)
        seconds, size = point.turn()
        memory.setdefault(name, []).append(size)
        return seconds

    named = {f"{point.contestant} {point.work}": point for point in points}
    contest = Contest({name: partial(turn, name, point) for name, point in named.items()})
    contest.run(range(rounds))
    return [
        {
            "contestant": point.contestant,
            "work": point.work,
            **point.facts,
            "seconds": [float(f"{seconds:.5g}") for seconds in contest.figures[name]],
            "peak_memory_bytes": memory[name],
        }
        for name, point in named.items()
    ]


def make_fits(part: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return by contestant the fits of `seconds` and of `peak_memory_bytes`."""
    if not PARTS[part].kind:
        return {}
    found: dict[str, Any] = {}
    for contestant in dict.fromkeys(row["contestant"] for row in rows):
        own = [row for row in rows if row["contestant"] == contestant]
        work = [row["work"] for row in own]
        kinds = {"seconds": PARTS[part].kind, "peak_memory_bytes": LINE}
        found[contestant] = {
            cost: fit(kind, work, list(zip(*(row[cost] for row in own), strict=True))) for cost, kind in kinds.items()
        }
    return found


def make_ratios(part: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, for several processes, the speed over that of the fewest: the median of the rounds' ratios and its 95% interval."""
    found = []
    for row in rows if part == "processes" else ():
        fewest = next(one for one in rows if one["contestant"] == row["contestant"])
        if row["work"] > fewest["work"]:
            pairs = np.array(fewest["seconds"]) / np.array(row["seconds"])
            low, high = interval(pairs)
            found.append(
                {
                    "contestant": row["contestant"],
                    "work": row["work"],
                    "reference": fewest["work"],
                    "ratio": float(np.median(pairs)),
                    "low": low,
                    "high": high,
                }
            )
    return found


# Bad input, before any work


def _parts(options: Options, frameworks: Collection[str]) -> list[str]:
    """Return the chosen parts. A check needs both frameworks, so without one of them, checks are left out or refused."""
    chosen = list(dict.fromkeys(options.parts.split(","))) if options.parts else list(PARTS)
    if unknown := [name for name in chosen if name not in PARTS]:
        raise InputError(f"--parts: {unknown[0]!r} is not one of {', '.join(PARTS)}{suggest(unknown[0], PARTS)}")
    checks = [name for name in chosen if name.startswith(CHECK) and len(frameworks) < len(FRAMEWORKS)]
    if checks and options.parts:
        raise InputError(f"--parts: {checks[0]} compares both frameworks: leave --frameworks out")
    return [name for name in PARTS if name in chosen and name not in checks]


def _plan(options: Options, console: Console, frameworks: list[str], parts: Sequence[str]) -> _Growth:
    """Return what is to be measured. `InputError` for points of `parts` of which no cost can be drawn."""
    refuse(options, ("against", "epochs"), "is not for growth: leave it out")
    recipe = changed(presets.get_recipe(options.recipe or RECIPE), batch_size=options.batch_size or BATCH)
    numbers = dict.fromkeys(LISTS, positive) | {"widths": _width}
    points = {name: _ascending(name, getattr(options, name) or LISTS[name], numbers[name]) for name in LISTS}
    if points["batch_sizes"][-1] > MOST_IMAGES:
        raise InputError(f"--batch-sizes: a batch has at most {MOST_IMAGES} images")
    if points["check_steps"][0] < 2:
        raise InputError("--check-steps: a check needs at least 2 steps to compare a trajectory")
    if "processes" in parts and recipe.batch_size < 2 * points["processes"][-1]:
        raise InputError(
            f"--processes: a batch of {counted(recipe.batch_size, 'image')} leaves some of {points['processes'][-1]} processes less "
            "than 2 images, which a batch norm needs: raise --batch-size"
        )
    threads = options.threads or machine.cores()
    network = options.network or NETWORK
    articles.get_network(network)  # raises `InputError`, as does the next
    growth = _Growth(options, console, frameworks, points, network, recipe, threads)
    if any("width" in name for name in parts):
        growth.cousins()
    return growth


Number = TypeVar("Number", int, float)


def _ascending(name: str, text: str, number: Callable[[str], Number]) -> list[Number]:
    """Return the numbers in `text`, ascending. `InputError` for fewer than two: they have no slope."""
    example = f"give numbers such as {LISTS[name]}"
    try:
        found = sorted({number(word) for word in text.split(",")})
    except (click.BadParameter, ValueError):
        raise InputError(f"{flag(name)} {text!r}: {example}") from None
    if len(found) < 2:
        raise InputError(f"{flag(name)} {text!r} is one point, which has no slope: {example}")
    return found


def _width(text: str) -> float:
    width = float(text)
    if not 0 < width <= 1:
        raise ValueError
    return width


# The tables

Row = Mapping[str, Any]

MARK = "growth"
"""The word in the marks of the generated block, see `parity.files.generated_block`."""


def markdown(result: Row) -> str:
    """Return the result as Markdown: the fits, a table of the points of each part, and the conditions of the measurement."""
    tables = [_fitted(result), *(_points(name, part) for name, part in result["parts"].items())]
    lines = [line for table in tables if table for line in [*table, ""]]
    return "\n".join([f"# Cost of {result['network']} as the work grows", "", *lines, *_conditions(result)]) + "\n"


def block(result: Row, folder: str) -> str:
    """Return what a page shows of the result: fits, processes, the picture in the report's `folder`, and the conditions."""
    tables = [_fitted(result), *(_points(name, part) for name, part in result["parts"].items() if name == "processes")]
    lines = [line for table in tables if table for line in [*table, ""]]
    picture = f"![time and memory against the work]({folder}/bench.png)"
    log = f"Every point: [log]({folder}/bench.md)."
    return "\n".join([*lines, log, "", picture, "", *_conditions(result)])


def _fitted(result: Row) -> list[str]:
    """Return the table of the fits."""
    lines = [
        "| cost | of | against | fixed (95% interval) | growth (95% interval) | largest distance of a point |",
        "|---|---|---|---:|---:|---:|",
    ]
    for name, part in result["parts"].items():
        title = PARTS[name].title
        nouns = {
            "seconds": f"time of {title}",
            "peak_memory_bytes": f"peak memory of {'training' if 'training' in title else title}",
        }
        lines += [
            f"| {noun} | {_said(contestant)} | {_fit_cells(name, cost, fits[cost])} |"
            for cost, noun in nouns.items()
            for contestant, fits in part["fits"].items()
        ]
    return lines if len(lines) > 2 else []


def _fit_cells(name: str, cost: str, fitted: Row) -> str:
    part = PARTS[name]
    units = _TIME if cost == "seconds" else _MEMORY
    reach = f"{part.work}, {fitted['least']:,} to {fitted['most']:,}"
    distance = "" if fitted["deviation"] is None else f"{fitted['deviation']:.0%}"
    if fitted["kind"] == POWER:
        exponent = fitted["exponent"]
        growth = f"exponent {exponent['median']:.2f}"
        growth += f" ({exponent['low']:.2f} to {exponent['high']:.2f})" * (fitted["rounds"] > 1)
        return f"{reach} | | {growth} | {distance}"
    fixed, slope = _between(fitted, "fixed", units), _between(fitted, "slope", units, part.unit)
    return f"{reach} | {fixed} | {slope} | {distance}"


_TIME = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_MEMORY = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))


def _between(fitted: Row, which: str, units: Sequence[tuple[float, str]], unit: str = "") -> str:
    """Return a value of a fit with its interval, in the unit of `units` that suits its larger end. One round has no interval."""
    value = fitted[which]
    largest = max(abs(value["low"]), abs(value["high"]))
    size, name = next((one for one in units if largest > 0.999 * one[0]), units[-1])
    median, low, high = (_digits(value[end] / size) for end in ("median", "low", "high"))
    spread = f" ({low} to {high})" if fitted["rounds"] > 1 else ""
    return f"{median} {name}{f' {unit}' if unit else ''}{spread}"


def _digits(value: float) -> str:
    """Return a number with three digits."""
    form = ",.0f" if abs(value) >= 999.5 else ".3g"
    return f"{value:{form}}"


def _points(name: str, part: Row) -> list[str]:
    """Return the table of the points of a part."""
    trains, several = not name.startswith(CHECK), name == "processes"
    ratios = {(row["contestant"], row["work"]): row for row in part["ratios"]}
    fewest = min(row["work"] for row in part["points"])
    head = [
        f"{PARTS[name].title}, {PARTS[name].work}",
        *(["network"] if "width" in name else []),
        "of",
        "seconds, median (min to max)",
        *(["images/s"] if trains else []),
        *([f"speed, ratio to {fewest} (95% interval)"] if several else []),
        "peak memory" + (" of all processes" if several or not trains else ""),
    ]
    left = 3 if "width" in name else 2
    lines = [f"| {' | '.join(head)} |", "|" + "---:|" + "---|" * (left - 1) + "---:|" * (len(head) - left)]
    for row in part["points"]:
        seconds, ratio = row["seconds"], ratios.get((row["contestant"], row["work"]))
        cells = [
            f"{row['work']:,}",
            *([f"`{row['network']}`"] if "width" in name else []),
            _said(row["contestant"]),
            f"{_digits(float(np.median(seconds)))} ({_digits(min(seconds))} to {_digits(max(seconds))})",
            *([f"{row['batch_size'] / np.median(seconds):.0f}"] if trains else []),
            *(
                [f"{ratio['ratio']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "1"]
                if several
                else []
            ),
            f"{max(row['peak_memory_bytes']) / 1e9:.2f} GB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _said(contestant: str) -> str:
    return "both" if contestant == CHECK else spoken_name(contestant)


def _conditions(result: Row) -> list[str]:
    parts = result["parts"]
    trained = f"recipe {result['recipe']}, {counted(result['threads'], 'thread')}, which several processes share"
    sizes = f"batches of {counted(result['batch_size'], 'image')} where the batch size does not grow"
    trains = any(not name.startswith(CHECK) for name in parts)
    checked = ""
    if found := result["check"]:
        each = f"{counted(found['threads'], 'thread')} a process"
        checked = f"{found['dtype']}, batches of {counted(found['batch_size'], 'image')}, {each}"
        if "check-width" in parts:
            checked += f"; {counted(parts['check-width']['points'][0]['steps'], 'step')} where steps do not grow"
    facts = {
        "Training": f"{result['network']}, {trained}; {sizes}" if trains else "",
        "Check": checked,
    }
    facts |= describe_conditions(result, result["rounds"])
    return conditions(facts, result["command"])
