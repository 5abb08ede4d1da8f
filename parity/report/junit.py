"""junit.xml: a suite a network, a case a stage."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from parity.report.markup import limit, shown, tag

PASSING = ("equal", "chaotic but equal")


def document(results: list[dict[str, Any]]) -> bytes:
    """The XML. A suite fails as its network's verdict does: "different" fails at least one case, "chaotic but equal" none.

    The stages of a step run as one, so each case is given an equal share of the time: the sum is right.
    """
    suites = [_suite(result) for result in results]
    totals = {
        name: sum(int(suite.attrib[name]) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    }
    seconds = sum(result.get("seconds", 0) for result in results)
    root = tag("testsuites", *suites, name="vgg-parity", time=f"{seconds:.3f}", **totals)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _suite(result: dict[str, Any]) -> Element:
    stages, name = result["stages"], f"{result['network']}.{result['dtype']}"
    seconds = result.get("seconds", 0)
    cases = [_case(result, name, stage, seconds / len(stages)) for stage in stages]
    if result["verdict"] not in PASSING and all(case.find("failure") is None for case in cases):
        # Something that is no stage, such as a layer on its own, was different.
        cases.append(
            tag("testcase", _failure(result, "no stage is different"), classname=name, name="verdict", time="0.000")
        )
    failures = sum(case.find("failure") is not None for case in cases)
    return tag(
        "testsuite", _properties(result), *cases, name=name, tests=len(cases), failures=failures, errors=0, skipped=0,
        time=f"{seconds:.3f}", timestamp=result.get("started"), hostname="localhost",
    )  # fmt: skip


def _properties(result: dict[str, Any]) -> Element:
    keys = ("command", "recipe", "data", "steps", "batch_size", "seed", "device", "threads", "machine", "verdict")
    found = {key: result[key] for key in keys if key in result}
    found |= {
        f"{lane}.{key}": value for lane, versions in result.get("lanes", {}).items() for key, value in versions.items()
    }
    return tag("properties", *(tag("property", name=key, value=value) for key, value in found.items()))


def _case(result: dict[str, Any], classname: str, name: str, seconds: float) -> Element:
    stage = result["stages"][name]
    excused = result["verdict"] == "chaotic but equal"
    failed = stage["verdict"] not in PASSING and not excused
    numbers = _numbers(name, stage)
    inner = _failure(result, numbers) if failed else tag("system-out", numbers)
    return tag("testcase", inner, classname=classname, name=name, time=f"{seconds:.3f}")


def _numbers(name: str, stage: dict[str, Any]) -> str:
    return (
        f"{name}: {stage['verdict']}, {stage['different']} of {stage['compared']} tensors above their bounds; worst {stage['worst']}: "
        f"error {shown(stage['max_error'])}, bound {limit(stage['bound'])}, "
        f"smallest bound that passes {shown(stage['smallest_bound_that_passes'])}"
    )


def _failure(result: dict[str, Any], numbers: str) -> Element:
    first = result.get("first_divergence") or {}
    lines = [numbers]
    if first:
        lines += [
            f"first divergence: {first['sentence']}",
            f"likely cause: {first.get('cause') or 'no known signature fits'}",
        ]
    lines.append(f"again: {result.get('command', 'python scripts/check_parity.py')}")
    return tag("failure", "\n".join(lines), message=first.get("sentence", numbers), type="different")
