"""The table of networks in Markdown: the size and cost of each, and the verdicts of checks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.backend.registry import NAMES
from parity.compare.verdicts import CHAOTIC, DIFFERENT, EQUAL, STAGES
from parity.errors import InputError
from parity.network.costs import costs, totals
from parity.network.network import Network


@dataclass(frozen=True)
class Log:
    """What `vgg-parity check --json` printed: the sides, and the result of each network or of its small cousin, by network."""

    path: Path
    sides: str
    found: Mapping[str, Mapping[str, Any]]

    def cell(self, name: str) -> str:
        """Return the verdict on the network `name`, the number of tensors, the size and the missing stages; "" if it was not checked."""
        if name not in self.found:
            return ""
        one = self.found[name]
        verdict = f"**{DIFFERENT}**" if one["verdict"] == DIFFERENT else one["verdict"]
        compared = sum(stage["compared"] for stage in one["stages"].values())
        # In older logs inference is counted in the stage "forward".
        missing = [stage for stage in STAGES if stage not in one["stages"] and stage != "eval"]
        size = ", small cousin" if "@" in one["network"] else ", full size"
        return f"{verdict}, {compared:,} tensors{size}{', without ' * bool(missing)}{' and '.join(missing)}"


def read(path: Path) -> Log:
    """Read the log in `path`; `InputError` if it is none."""
    try:
        whole = json.loads(path.read_text())
        results = whole.get("results", [whole])
        found = {str(one["network"]).partition("@")[0]: one for one in results}
        if len(found) < len(results):
            raise ValueError("a network twice")
        sides = {" and ".join(_side(*lane) for lane in one["lanes"].items()) for one in results}
        if len(sides) > 1:
            raise ValueError(f"results of several lanes: {'; '.join(sorted(sides))}")
        log = Log(path, sides.pop(), found)
        if {one["verdict"] for one in results} - {EQUAL, CHAOTIC, DIFFERENT}:
            raise ValueError("an unknown verdict")
        for name, one in found.items():
            log.cell(name)
            if not one["stages"] or not all(stage["compared"] > 0 for stage in one["stages"].values()):
                raise ValueError(f"nothing was compared of {name}")
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): give what vgg-parity check --json printed") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is not what vgg-parity check --json prints ({type(error).__name__}: {error}): give its last line of stdout"
        ) from None
    return log


def _side(name: str, versions: Mapping[str, str]) -> str:
    framework = name.split(maxsplit=1)[0]
    return f"{NAMES[framework]} {versions[framework].partition('+')[0]}"


def table(networks: Sequence[Network], logs: Sequence[Log] = (), place: Path = Path()) -> str:
    """Return one row for each network, with the counts of inference; links to logs are relative to the folder `place`."""
    links = [f"[{log.sides}]({Path(os.path.relpath(log.path, place)).as_posix()})" for log in logs]
    lines = [_line("network", "input", "parameters", "multiply-adds", *links, "source")]
    lines.append(_line("---", "---", "---:", "---:", *("---" for _ in logs), "---"))
    for network in networks:
        total = totals(costs(network))
        counts = (f"{total[field]:,}" for field in ("parameters", "multiply_adds"))
        verdicts = (log.cell(network.name) for log in logs)
        lines.append(
            _line(f"`{network.name}`", "x".join(map(str, network.input_shape)), *counts, *verdicts, network.source)
        )
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', ' ') for cell in cells)} |"
