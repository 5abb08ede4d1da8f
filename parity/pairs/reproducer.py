"""Write the first call that differs as programs that run alone: one file for each framework, with the inputs beside it."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.backend.registry import NAMES
from parity.files.atomic import write_atomically
from parity.modules.function_names import SETTING
from parity.modules.layer_kinds import OTHER_SIDE, SIDES
from parity.pairs.first_call import FirstCall, run_backward, run_recorded
from parity.pairs.session import Session

PROGRAM = '''"""{cause}

This file computes what {name} computes there. The inputs, and what {other} computes, are in the .npz file beside it.
"""

from pathlib import Path

import numpy as np
import {module}

saved = np.load(Path(__file__).with_suffix(".npz"))
{lines}

own, other = {result}.numpy(), saved["other"]
print("{name}:", own.shape, own.ravel()[:4])
print("{other}:", other.shape, other.ravel()[:4])
if own.size == other.size:
    own, other = own.ravel(), other.ravel()
    differ = ~np.isclose(own, other, rtol=1e-12, atol=0)
    print(f"{{differ.sum()}} of {{own.size}} numbers differ, by at most {{abs(own - other)[differ].max(initial=0)}}")
'''
"""The program of one side."""

TENSOR = {"torch": 'torch.from_numpy(saved["{}"])', "paddle": 'paddle.to_tensor(saved["{}"])'}
"""How a program makes a tensor of a saved array."""

NEEDS_GRADIENT = {"torch": "{}.requires_grad = True", "paddle": "{}.stop_gradient = False"}
"""How a program asks for the gradient of a tensor."""

GRADIENT = {"torch": "torch.autograd.grad", "paddle": "paddle.grad"}
"""The function that returns the gradients of outputs for inputs."""


def write_reproducer(folder: Path, session: Session, found: FirstCall | None, cause: str) -> str:
    """Write `reproduce_torch.py` and `reproduce_paddle.py`, each with a .npz file, and return a sentence on what was written.

    Nothing is written where no call is known that a program can repeat.
    """
    if found is None or not any(found.calls.values()):
        return "no reproducer: the first divergence has no call of a function that a program could repeat"
    chosen = {side: found.functions(side) for side in SIDES}
    for side, calls in chosen.items():
        for call in calls:
            if not call["function"].startswith(f"{side}.") or any("?" in text for text in call["arguments"]):
                return f"no reproducer: a program cannot repeat the call {call['name']} of {NAMES[side]}, a function of your own"
    for side, calls in chosen.items() if found.backward else ():
        if calls[0]["name"] in SETTING or calls[0]["function"].endswith("_"):
            return f"no reproducer: {NAMES[side]}'s call {calls[0]['name']} changes a tensor whose gradient is wanted"
    wanted = {
        side: [*(origin for call in calls for origin in call["inputs"]), found.results[side]]
        for side, calls in chosen.items()
    }
    programs, results = _programs(session, found, chosen, wanted)
    paths = []
    for side, other in OTHER_SIDE.items():
        lines, arrays = programs[side]
        words = {"cause": _wrapped(cause), "name": NAMES[side], "other": NAMES[other], "module": side}
        text = PROGRAM.format(**words, lines="\n".join(lines), result=_result(found, side))
        path = folder / f"reproduce_{side}.py"
        write_atomically(path.with_suffix(".npz"), _npz(arrays | {"other": results[other]}))
        write_atomically(path, text.encode())
        paths.append(str(path))
    return f"reproducer: {' and '.join(paths)}"


Program = tuple[list[str], Record]
"""The lines of a program that compute the result, and the arrays that they load."""


def _programs(
    session: Session,
    found: FirstCall,
    chosen: Mapping[str, Sequence[Mapping[str, Any]]],
    wanted: Mapping[str, Sequence[str]],
) -> tuple[dict[str, Program], Record]:
    """Return by side the program, and the result that the model has there."""
    if not found.backward:
        runs = run_recorded(session, found.train, False, wanted, found.step)
        values = {side: run.arrays for side, run in runs.items()}
        programs = {side: _program(side, chosen[side], found.results[side], values[side]) for side in SIDES}
        return programs, {side: values[side][found.results[side]] for side in SIDES}
    ends = {side: [*wanted[side], *chosen[side][0]["outputs"]] for side in SIDES}
    values, gradients = run_backward(session, ends)
    programs = {
        side: _backward_program(side, chosen[side], found.results[side], values[side], gradients[side])
        for side in SIDES
    }
    nothing = {side: np.zeros_like(values[side][found.results[side]]) for side in SIDES}
    return programs, {side: gradients[side].get(found.results[side], nothing[side]) for side in SIDES}


def _result(found: FirstCall, side: str) -> str:
    """Return the variable of a program that differs."""
    return GRADIENT_NAME if found.backward else _variable(found.results[side])


GRADIENT_NAME = "gradient"
"""The variable that holds the gradient of an input."""


def _backward_program(
    side: str, calls: Sequence[Mapping[str, Any]], start: str, values: Record, gradients: Record
) -> Program:
    """Return the program of a call and of its backward pass from the gradients of its outputs."""
    lines, arrays = _program(side, calls, calls[0]["outputs"][0], values)
    lines.insert(len(arrays), NEEDS_GRADIENT[side].format(_variable(start)))
    origins = [origin for origin in calls[0]["outputs"] if origin in gradients]
    ends = [_variable(origin) for origin in origins]
    seeds = {f"{_variable(origin)}_gradient": gradients[origin] for origin in origins}
    lines += [f"{name} = {TENSOR[side].format(name)}" for name in seeds]
    lists = ", ".join(f"[{', '.join(names)}]" for names in (ends, [_variable(start)], seeds))
    lines.append(f"({GRADIENT_NAME},) = {GRADIENT[side]}({lists})")
    return lines, arrays | seeds


def _program(side: str, calls: Sequence[Mapping[str, Any]], result: str, values: Record) -> Program:
    """Return the lines that make the tensors and call the functions, and the arrays that they load."""
    made = {origin for call in calls for origin in call["outputs"]}
    needed = dict.fromkeys(origin for call in calls for origin in call["inputs"] if origin not in made)
    loaded = needed if result in made else needed | {result: None}
    lines = [f"{_variable(origin)} = {TENSOR[side].format(_variable(origin))}" for origin in loaded]
    for call in calls:
        names = [_variable(origin) for origin in call["inputs"]]
        outputs = ", ".join(_variable(origin) for origin in call["outputs"])
        program = f"{call['function']}({_with_names(', '.join(call['arguments']), names)})"
        lines += [program, f"{outputs} = {names[0]}"] if call["name"] in SETTING else [f"{outputs} = {program}"]
    return lines, {_variable(origin): values[origin] for origin in loaded}


def _with_names(arguments: str, names: Sequence[str]) -> str:
    """Return the arguments of a call with the names of tensors."""
    return re.sub(r"\$(\d+)", lambda match: names[int(match[1])], arguments)


def _variable(origin: str) -> str:
    """Return the name of a tensor in the program."""
    return re.sub(r"\W", "_", f"t{origin}" if origin[0].isdigit() else origin)


def _npz(arrays: Mapping[str, Array]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text.replace("\\", "/").replace('"', "'"), 100))
