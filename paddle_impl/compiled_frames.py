"""Repairs of the compiler of `paddle.jit.to_static(full_graph=False)`, which translates the bytecode of each function by itself."""

# DIFFERS: PyTorch's compiler asks for the mode and for gradients, and its time grows with the length of a function.
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from paddle.jit.dy2static.program_translator import SymbolicStaticFunction
from paddle.jit.sot.opcode_translator.executor import opcode_executor, pycode_generator
from paddle.jit.sot.opcode_translator.executor.executor_cache import OpcodeExecutorCache
from paddle.jit.sot.opcode_translator.instruction_utils import opcode_analysis, opcode_info

INPUTS = "analysis_inputs"
"""The name of the compiler's function that lists the variables which the rest of a function reads. Version 3 has no such name."""


VARIABLES = opcode_info.HAS_LOCAL | opcode_info.HAS_FREE
"""Instructions that read, write or delete a variable of the function."""


@contextlib.contextmanager
def sound_frames() -> Iterator[None]:
    """A context in which training uses no code that was compiled for inference, and functions with many branches compile at once.

    Nothing that is compiled there is used afterwards.
    """
    compiled, original = OpcodeExecutorCache(), SymbolicStaticFunction._perform_call
    codes: dict[bool, dict[Any, Any]] = {False: {}, True: {}}

    def call(function: Any, *given: Any, **named: Any) -> Any:
        # A function that a model calls is compiled in the model's mode, and nothing asks for the mode later.
        before, compiled.cache = compiled.cache, codes[bool(function._is_train_mode())]
        try:
            return original(function, *given, **named)
        finally:
            compiled.cache = before

    modules = [module for module in (opcode_executor, pycode_generator) if hasattr(module, INPUTS)]
    slow = [getattr(module, INPUTS) for module in modules]
    SymbolicStaticFunction._perform_call = call
    for module in modules:
        setattr(module, INPUTS, read_variables)
    try:
        yield
    finally:
        SymbolicStaticFunction._perform_call = original
        for module, function in zip(modules, slow, strict=True):
            setattr(module, INPUTS, function)


def read_variables(instructions: Sequence[Any], start: int, stop: int | None = None) -> Any:
    """Return the names of variables that the instructions from `start` to `stop` may read before they write them, in order.

    The framework's own function follows every path through them, and their number doubles with each branch.
    """
    end = len(instructions) if stop is None else stop
    places = {id(instruction): i for i, instruction in enumerate(instructions)}
    reads: list[set[str]] = [set() for _ in range(len(instructions) + 1)]
    last: list[set[str]] = []
    while last != reads:  # a loop takes a further round
        last = list(reads)
        for i in reversed(range(end)):
            name, value = instructions[i].opname, instructions[i].argval
            found = set() if name == "RETURN_VALUE" or name in opcode_info.UNCONDITIONAL_JUMP else reads[i + 1]
            if name in opcode_info.ALL_JUMP:
                found = found | reads[places[id(instructions[i].jump_to)]]
            if name in VARIABLES:
                found = found - {value} if opcode_analysis.is_write_opcode(name) else found
                found = found | {value} if opcode_analysis.is_read_opcode(name) else found
            reads[i] = found
    order = dict.fromkeys(one.argval for one in instructions if one.opname in VARIABLES)
    return opcode_analysis.OrderedSet([name for name in order if name in reads[start]])
