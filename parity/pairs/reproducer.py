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
from parity.pairs.first_call import FirstCall, run_recorded
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
    wanted = {
        side: [*(origin for call in calls for origin in call["inputs"]), found.results[side]]
        for side, calls in chosen.items()
    }
    runs = run_recorded(session, found.train, False, wanted)
    results = {side: runs[side].arrays[found.results[side]] for side in SIDES}
    paths = []
    for side, other in OTHER_SIDE.items():
        lines, arrays = _program(side, chosen[side], found.results[side], runs[side].arrays)
        words = {"cause": _wrapped(cause), "name": NAMES[side], "other": NAMES[other], "module": side}
        text = PROGRAM.format(**words, lines="\n".join(lines), result=_variable(found.results[side]))
        path = folder / f"reproduce_{side}.py"
        write_atomically(path.with_suffix(".npz"), _npz(arrays | {"other": results[other]}))
        write_atomically(path, text.encode())
        paths.append(str(path))
    return f"reproducer: {' and '.join(paths)}"


def _program(side: str, calls: Sequence[Mapping[str, Any]], result: str, values: Record) -> tuple[list[str], Record]:
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
