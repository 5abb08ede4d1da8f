"""A child process that runs one of this project's programs, and calls to it over pipes.

A message is eight bytes of length and a safetensors blob: arrays, with the call or the answer as JSON in the metadata
(`parity.backend.messages`). Nothing is pickled. The process ends when its stdin is closed, and is killed when its parent ends
(`parity.backend.launch`).
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from parity import machine
from parity.arrays import Array
from parity.backend.child_main import PACKAGES, ROOT
from parity.backend.launch import launch
from parity.backend.messages import receive, send
from parity.errors import InputError, describe_error

Record = dict[str, Array]

Own = TypeVar("Own", bound="Process")

MUCH = 2**26
"""After an answer of more bytes, a process returns its freed memory to the system: the caller now holds the answer."""

PIPE = 2**20
"""Buffer size of a pipe to a process, in bytes. Large messages take half as long as with the system's 64 KB."""


class WorkerFailed(RuntimeError):
    """A worker process raised an error or died. The message holds its traceback, or the last lines that it wrote.

    Attributes:
        reason: The error in one line. Empty where the process died.
        record: What the call had computed before it failed.
    """

    def __init__(self, message: str, reason: str = "", record: Record | None = None) -> None:
        super().__init__(message)
        self.reason, self.record = reason, record or {}


class CallFailed(Exception):
    """A method of a service failed with `error` after it had computed the arrays `record`."""

    def __init__(self, error: Exception, record: Record) -> None:
        super().__init__(str(error))
        self.error, self.record = error, record


class Process:
    """A child process that runs the module `program`, which calls `serve`, with `arguments`. Use it as a context manager.

    `python` is its interpreter (None: this process's own), `name` its name in errors. With `own_session`, signals that a terminal or a
    launcher sends to the whole process group do not reach it. `environment` is added to this process's environment variables.
    `InputError` if `python` cannot be run.
    """

    def __init__(
        self,
        name: str,
        program: str,
        arguments: Sequence[str],
        python: str | Path | None = None,
        own_session: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = launch(
            program,
            arguments,
            python,
            environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=own_session,
        )
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            machine.enlarge_pipe(pipe, PIPE)

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind and issubclass(kind, KeyboardInterrupt):
            self.kill()  # nobody waits for what it computes now
        else:
            self.close()

    @property
    def exit_code(self) -> int | None:
        """The exit code of the process, or minus the number of the signal that ended it; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """End the process at once, for a process that has nothing to save."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End the process after its current call."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def call(self, name: str, arrays: Mapping[str, Array] | None = None, **arguments: Any) -> tuple[Record, Any]:
        """Send one call and return the answer's arrays and result. `WorkerFailed` if the call fails, `InputError` for bad input."""
        assert self._process.stdin and self._process.stdout
        try:
            send(self._process.stdin, arrays or {}, {"call": name, "arguments": arguments})
            found, answer = receive(self._process.stdout)
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
            self._process.kill()
            self._errors.seek(0)
            reason = _last_words(self._errors.read().decode(errors="replace"))
            raise WorkerFailed(f"the {self.name} died (exit code {self._process.returncode}){reason}") from None
        if "input_error" in answer:
            raise InputError(answer["input_error"])
        if "error" in answer:
            raise WorkerFailed(f"the {self.name} failed:\n{answer['error']}", answer["reason"], found)
        return found, answer["result"]


CRASH = "Fatal Python error: "
"""Begins what a process writes at a crash, see `parity.machine.end_at_crashes`. The lines of its stack match `PLACE`."""

PLACE = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


def _last_words(text: str) -> str:
    """The end of a message on a process that wrote `text` on stderr before it died: the crash and its place outside of this project."""
    _, crashed, stack = text.rpartition(CRASH)
    if not crashed:
        return ":\n" + ("\n".join(text.splitlines()[-15:]) or "it wrote nothing")
    own = ("<frozen ", *(f"{ROOT}{os.sep}{package}{os.sep}" for package in PACKAGES))
    places = PLACE.findall(stack)
    outside = [place for place in places if not place[0].startswith(own)]
    where = "".join(f" in {name} ({file}, line {line})" for file, line, name in (outside or places)[:1])
    return f": {stack.splitlines()[0]}{where}"


def _failure(error: Exception) -> tuple[Record, dict[str, str]]:
    """The answer to a call that raised `error`."""
    cause, record = (error.error, error.record) if isinstance(error, CallFailed) else (error, {})
    if isinstance(cause, InputError):
        return {}, {"input_error": str(cause)}
    trace = "".join(traceback.format_exception(cause))
    return record, {"error": trace, "reason": describe_error(cause)}


def serve(make: Callable[[], Any]) -> None:
    """Answer calls from stdin on stdout, by the methods of the object that `make` returns, until stdin ends."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # frameworks print to stdout, which carries the messages
    try:
        server = make()
    except InputError as error:  # such as a framework that is not installed: answer the first call with it
        receive(source)
        send(sink, {}, {"input_error": str(error)})
        return
    gc.freeze()  # a collection need not look at the framework's own objects: there are half a million
    while True:
        try:
            arrays, message = receive(source)
        except EOFError:
            os._exit(0)  # there is nothing to save, and an orderly end of a framework takes seconds
        try:
            found, result = getattr(server, message["call"])(arrays, **message["arguments"])
            answer = {"result": result}
        except Exception as error:
            found, answer = _failure(error)
        send(sink, found, answer)
        size = sum(array.nbytes for array in found.values())
        del arrays, found  # they can be gigabytes, and would be held until the next call has arrived
        if size > MUCH:
            machine.release_memory()
