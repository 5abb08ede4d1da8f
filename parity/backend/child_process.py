"""A process of a program of ours, and calls to it over pipes.

A message is eight bytes of length and a safetensors blob: arrays, with the call or the answer as JSON in the metadata
(`parity.backend.messages`). Nothing is pickled. The process ends when its input does, and is killed when its parent ends
(`parity.backend.launch`).
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from parity.arrays import Array
from parity.backend.launch import launch
from parity.backend.messages import receive, send
from parity.errors import InputError

Record = dict[str, Array]

Own = TypeVar("Own", bound="Process")

PIPE = 2**20
"""Bytes that a pipe to a process holds: large messages take half as long as by the system's 64 KB."""


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
    """A method of a service failed with `error`, after it had computed `record`."""

    def __init__(self, error: Exception, record: Record) -> None:
        super().__init__(str(error))
        self.error, self.record = error, record


class Process:
    """The program `program` (a module that calls `serve`) with `arguments` in a process of its own, run by `python` (None: this one).

    `name` is what it is called in errors. `own_session`, it does not hear the signals that a terminal or a launcher sends to the whole
    group of processes. `environment` is what it has besides this process's. Use as a context manager. `InputError` where `python` cannot
    be run.
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
            with contextlib.suppress(OSError, AttributeError):  # not every system has it, and none has room for many
                assert pipe
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind and issubclass(kind, KeyboardInterrupt):
            self.kill()  # what it computes now nobody waits for
        else:
            self.close()

    @property
    def exit_code(self) -> int | None:
        """What the process ended with, minus the number of the signal that ended it; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Ends the process at once, whatever it computes: for one that has nothing to save."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Ends the process, after the call that it is at."""
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
        """Sends one call and waits for its answer; `WorkerFailed` with the reason if there is none, `InputError` for bad input."""
        assert self._process.stdin and self._process.stdout
        try:
            send(self._process.stdin, arrays or {}, {"call": name, "arguments": arguments})
            found, answer = receive(self._process.stdout)
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
            self._process.kill()
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").splitlines()[-15:]
            reason = "\n".join(lines) or "it wrote nothing"
            raise WorkerFailed(f"the {self.name} died (exit code {self._process.returncode}):\n{reason}") from None
        if "input_error" in answer:
            raise InputError(answer["input_error"])
        if "error" in answer:
            raise WorkerFailed(f"the {self.name} failed:\n{answer['error']}", answer["reason"], found)
        return found, answer["result"]


def _failure(error: Exception) -> tuple[Record, dict[str, str]]:
    """The answer to a call that raised `error`."""
    cause, record = (error.error, error.record) if isinstance(error, CallFailed) else (error, {})
    if isinstance(cause, InputError):
        return {}, {"input_error": str(cause)}
    # Paddle goes on with hints and places in its source.
    lines = itertools.takewhile(lambda line: not line.startswith("[Hint"), map(str.strip, str(cause).splitlines()))
    trace = "".join(traceback.format_exception(cause))
    return record, {"error": trace, "reason": f"{type(cause).__name__}: {' '.join(filter(None, lines))}"}


def serve(make: Callable[[], Any]) -> None:
    """Answers calls from stdin on stdout, by the methods of what `make` makes, until stdin ends."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a framework prints must not end up between the messages
    try:
        server = make()
    except InputError as error:  # the framework is not installed: the answer to the first call
        receive(source)
        send(sink, {}, {"input_error": str(error)})
        return
    while True:
        try:
            arrays, message = receive(source)
        except EOFError:
            os._exit(0)  # there is nothing to save, and taking a framework down takes seconds
        try:
            found, result = getattr(server, message["call"])(arrays, **message["arguments"])
            answer = {"result": result}
        except Exception as error:
            found, answer = _failure(error)
        send(sink, found, answer)
        del arrays, found  # of a whole network they are gigabytes, and the next call comes while these are held
