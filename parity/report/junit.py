"""Write junit.xml: one suite for each network, one case for each stage."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from parity.compare.verdicts import INIT
from parity.report.text import limit, readable, shown

PASSING = ("equal", "chaotic but equal")


def document(results: list[dict[str, Any]]) -> bytes:
    """Return the XML. The verdict "different" fails at least one case of the network's suite, "chaotic but equal" fails none.

    The stages of a step run together, so each case gets an equal share of the time. The sum is right.
    """
    root = Element("testsuites", name="vgg-parity", time=_seconds(sum(result.get("seconds", 0) for result in results)))
    root.extend(_suite(result) for result in results)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.attrib[name]) for suite in root)))
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f"<?xml version='1.0' encoding='utf-8'?>\n{readable(text)}".encode()


def _suite(result: dict[str, Any]) -> Element:
    stages, name = result["stages"], f"{result['network']}.{result['dtype']}"
    seconds = result.get("seconds", 0)
    suite = Element("testsuite", name=name, errors="0", skipped="0", time=_seconds(seconds), hostname="localhost")
    if "started" in result:
        suite.set("timestamp", result["started"])
    properties = SubElement(suite, "properties")
    for key, value in _properties(result).items():
        SubElement(properties, "property", name=key, value=str(value))
    excused = result["verdict"] == "chaotic but equal"
    for stage, found in stages.items():
        case = SubElement(suite, "testcase", classname=name, name=stage, time=_seconds(seconds / len(stages)))
        numbers = _numbers(stage, found) if stage != INIT else _arrays(found, result["initialisation"])
        if found["verdict"] in PASSING or excused:
            SubElement(case, "system-out").text = numbers
        else:
            _add_failure(case, result, numbers)
    if result["verdict"] not in PASSING and suite.find("testcase/failure") is None:
        # Something outside the stages, such as an isolated layer, was different.
        case = SubElement(suite, "testcase", classname=name, name="verdict", time="0.000")
        _add_failure(case, result, "no stage is different")
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    return suite


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"


def _properties(result: dict[str, Any]) -> dict[str, Any]:
    keys = ("command", "recipe", "data", "steps", "batch_size", "seed", "device", "threads", "machine", "verdict")
    found = {key: result[key] for key in keys if key in result}
    return found | {
        f"{lane}.{key}": value for lane, versions in result.get("lanes", {}).items() for key, value in versions.items()
    }


def _numbers(name: str, stage: dict[str, Any]) -> str:
    return (
        f"{name}: {stage['verdict']}, {stage['different']} of {stage['compared']} tensors above tolerance; worst {stage['worst']}: "
        f"error {shown(stage['max_error'])}, tolerance {limit(stage['bound'])}, "
        f"smallest tolerance that passes {shown(stage['smallest_bound_that_passes'])}"
    )


def _arrays(stage: dict[str, Any], found: dict[str, Any]) -> str:
    """Return what the stage init found."""
    count = (
        f"{INIT}: {stage['verdict']}, {stage['different']} of {stage['compared']} arrays over {found['seeds']} seeds"
    )
    return "; ".join([count, *found["differences"]])


def _add_failure(case: Element, result: dict[str, Any], numbers: str) -> None:
    first = result.get("first_divergence") or {}
    lines = [numbers]
    if first:
        lines += [
            f"first divergence: {first['sentence']}",
            f"likely cause: {first.get('cause') or 'none of the known mistakes fits'}",
        ]
    lines.append(f"command: {result.get('command', 'vgg-parity check')}")
    failure = SubElement(case, "failure", message=first.get("sentence", numbers), type="different")
    failure.text = "\n".join(lines)
