"""What all commands share: types of options, usage errors in one line, exit codes, the JSON line."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from parity import machine
from parity.backend.child_process import WorkerFailed
from parity.compare.relative_error import NothingCompared
from parity.errors import InputError, suggest
from parity.progress import Console
from parity.standard_streams import printable

PROGRAM = "vgg-parity"

Options = SimpleNamespace
"""The options of a command by name: `--save-map` is `save_map`."""

Act = Callable[[Options, Console], dict[str, Any] | None]
"""The function of a command. It returns what `--json` prints, or None if another process prints it."""

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}

LARGEST = 2**63 - 1

MOST_THREADS = 1024
"""No machine has more cores."""


class Command(click.Command):
    """A command of `vgg-parity`. Help shows each of the `examples` on a line, after the program's name."""

    def __init__(self, act: Act, name: str, examples: Sequence[str], **settings: Any) -> None:
        super().__init__(name, context_settings=SETTINGS, **settings)
        self.act, self.examples = act, examples

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{PROGRAM} {self.name} {example}".rstrip() + "\n")

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Parse the command line. `Options.words` keeps it as it is."""
        context.meta["words"] = list(arguments)
        self._check_values(context, arguments)
        return super().parse_args(context, arguments)

    def _check_values(self, context: click.Context, arguments: Sequence[str]) -> None:
        """Raise `UsageError` if an option follows another one that lacks its value: click would use it as the value."""
        options = [param for param in self.get_params(context) if isinstance(param, click.Option)]
        known = {name for option in options for name in option.opts}
        with_value = {name for option in options if not option.is_flag for name in option.opts}
        for word, following in itertools.pairwise(arguments):
            if word in with_value and following in known:
                raise click.BadOptionUsage(word, f"option {word!r} requires a value", context)

    def invoke(self, context: click.Context) -> int:
        """Run the command. Return the exit code."""
        options = Options(**context.params, words=context.meta["words"])
        return execute(lambda: self.act(options, Console(options.json)), options.json)

    def parse(self, arguments: Sequence[str]) -> Options:
        """Parse `arguments` to options. Raises `click.UsageError`."""
        return Options(**self.make_context(self.name, list(arguments)).params, words=list(arguments))

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command with `arguments` (None: those of the process). Return the exit code."""
        return run(self, arguments, f"{PROGRAM} {self.name}")


def run(command: click.Command, arguments: Sequence[str] | None, name: str) -> int:
    """Run a command that help calls `name`. Return the exit code. Bad usage gives one line on stderr."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code: int | None = command.main(words, name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else " ".join([name, *words[:1]])
        return say_last(2, f"error: {_explained(error)} (see {where} --help)")
    except click.Abort:
        return say_last(130, "interrupted")
    return code or 0


def _explained(error: click.UsageError) -> str:
    """Return the message of an error, without the text that click puts around it."""
    if isinstance(error, click.NoSuchOption):
        return f"no such option {error.option_name!r}{suggest(error.option_name, error.possibilities or ())}"
    if isinstance(error, click.MissingParameter) or not isinstance(error, click.BadParameter) or not error.param:
        text = error.format_message()
        return text[:1].lower() + text[1:].rstrip(".") + _example(error)
    message = error.message.rstrip(".")
    return f"{'/'.join(error.param.opts)}: {message}" if isinstance(error.param, click.Option) else message


def _example(error: click.UsageError) -> str:
    """Return the end of a message about missing or unexpected words: a command line that works."""
    found = error.ctx.command if error.ctx else None
    if not isinstance(found, Command) or not found.name or isinstance(error, click.BadOptionUsage):
        return ""
    words = [example.partition("   (")[0].strip() for example in found.examples]
    first = next(filter(None, words), "")
    return f"; for example: {shlex.join(program(found.name))} {first}" if first else ""


def command(name: str, summary: str, examples: Sequence[str]) -> Callable[[Act], Command]:
    """Return a decorator that makes a `Command` of a function, with the options below the decorator and `--json`."""

    def decorate(act: Act) -> Command:
        options = list(reversed(getattr(act, "__click_params__", [])))
        shown = click.Option(
            ["--json"], is_flag=True, help="one JSON object on the last line of stdout, messages on stderr"
        )
        return Command(
            act, name, examples, params=[*options, shown], help=summary, short_help=summary.partition("\n")[0]
        )

    return decorate


option, argument = click.option, click.argument


# Older versions of click have no type argument there.
class Choice(click.Choice):  # type: ignore[type-arg]
    """One of some words. The message for another word suggests the nearest one."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """Return `value`."""
        if value not in self.choices:
            words = ", ".join(map(repr, self.choices))
            self.fail(f"{value!r} is not one of {words}{suggest(str(value), self.choices)}", param, context)
        return value


choice = Choice


PATH = click.Path(path_type=Path, readable=False)
"""A file or folder, which need not exist."""


# Older versions of click have no type argument there.
class WholeNumber(click.ParamType):  # type: ignore[type-arg]
    """A whole number from `least` to `most`. `remark` ends the message for a larger one."""

    name = "integer"

    def __init__(self, least: int, most: int = LARGEST, remark: str = "") -> None:
        self.least, self.most, self.remark = least, most, remark

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        """Parse `value`."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, context)
        if number < self.least:
            self.fail(f"{number} is {'negative' if number < 0 else f'not at least {self.least}'}", param, context)
        if number > self.most:
            most = "2**63 - 1" if self.most == LARGEST else self.most
            self.fail(f"{number} is above {most}{self.remark}", param, context)
        return number


class Parsed(click.ParamType):  # type: ignore[type-arg]
    """A text that `read` parses. If that raises `ValueError`, the message says that the text is not `what`."""

    def __init__(self, read: Callable[[str], Any], what: str) -> None:
        self.read, self.name = read, what

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """Parse `value`. A default that is not a text stays as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except ValueError as error:
            self.fail(str(error) if isinstance(error, InputError) else f"{value!r} is not {self.name}", param, context)


positive, natural = WholeNumber(1), WholeNumber(0)
threads = WholeNumber(1, MOST_THREADS, f"; this machine has {machine.cores()} cores")


def program(name: str) -> list[str]:
    """Return the words that start the command `name` again: the script if this process is one, else `vgg-parity NAME`."""
    return ["python", sys.argv[0]] if is_script() else [PROGRAM, name]


def is_script() -> bool:
    """Return whether this process is one of `scripts/*.py`."""
    script = Path(sys.argv[0])
    return script.parent.name == "scripts" and script.suffix == ".py"


def command_line(name: str, options: Options) -> str:
    """Return the command line that started the command `name`, with ~ for the home folder."""
    words = sys.argv[1:] if is_script() else options.words  # a script's own flags are translated
    return shlex.join([*program(name), *words]).replace(os.path.expanduser("~"), "~")  # noqa: PTH111 - never raises


def flag(name: str) -> str:
    """Return the flag of an option: save_map -> --save-map."""
    return f"--{name.replace('_', '-')}"


def refuse(options: Options, names: Iterable[str], why: str) -> None:
    """Raise `InputError`, which says `why`, if one of the options `names` is given."""
    for name in names:
        if getattr(options, name):
            raise InputError(f"{flag(name)} {why}")


def check_png(path: Path, name: str = "output") -> None:
    """Raise `InputError` unless `path`, given with the option `name`, can be the name of a PNG file."""
    if path.suffix.lower() != ".png" or os.path.isdir(path):  # noqa: PTH112 - never raises
        raise InputError(f"{flag(name)} {path} is not the name of a .png file")


class Failed(Exception):
    """The check or the run failed: exit code 1. --json prints `result` nevertheless."""

    def __init__(self, message: str, result: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.result = result


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the command, and the message says how to resume. Other KeyboardInterrupts have no useful message."""


def execute(command: Callable[[], dict[str, Any] | None], as_json: bool) -> int:
    """Run `command`, print its result as JSON if `as_json` is set, and return the exit code.

    0 done, 1 failed, 2 bad usage or bad input, 130 interrupted. Bad input gives one line on stderr, never a traceback. An `OSError` that
    names a file counts as bad input: even `Path.exists` raises one if this user cannot read a parent folder.
    """
    try:
        result = _interruptible(command)
    except InputError as error:
        if as_json and error.result is not None:
            print(json.dumps(error.result), flush=True)
        return say_last(2, f"error: {error}")
    except Failed as error:
        if as_json and error.result is not None:
            print(json.dumps(error.result), flush=True)
        return say_last(1, f"failed: {error}")
    except KeyboardInterrupt as error:
        return say_last(130, str(error) if isinstance(error, Interrupted) else "interrupted")
    except OSError as error:
        if not isinstance(error.filename, str | bytes):
            raise
        return say_last(2, f"error: cannot use {os.fsdecode(error.filename)}: {error.strerror}")
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return say_last(
            1,
            "failed: out of memory: try a smaller --batch-size, fewer pictures or a narrower network such as vgg16_bn_drop@0.25",
        )
    if as_json and result is not None:
        print(json.dumps(result), flush=True)
    return 0


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether `error` says that memory is short. PyTorch raises a RuntimeError for it, on the CPU and on a GPU."""
    shortages = (
        "DefaultCPUAllocator: can't allocate memory",
        "DefaultCPUAllocator: not enough memory",
        "out of memory",
    )
    return isinstance(error, MemoryError) or any(text in str(error) for text in shortages)


@contextmanager
def attach_result(result: dict[str, Any]) -> Iterator[None]:
    """Add `result` to an `InputError` that writing a report raises, so that `execute` prints the result nevertheless."""
    try:
        yield
    except InputError as error:
        error.result = result
        raise


def _interruptible(command: Callable[[], Any]) -> Any:
    """Call `command`. If a library turned a KeyboardInterrupt into another error, raise the KeyboardInterrupt."""
    try:
        return command()
    except Exception as error:
        behind: list[BaseException] = [error]
        for one in behind:  # the loop extends this list
            if isinstance(one, KeyboardInterrupt):
                raise one from None
            behind += [other for other in (one.__cause__, one.__context__) if other and other not in behind]
        raise


def say_last(code: int, message: str) -> int:
    """Print `message` on stderr, on one line if `code` is that of bad input. Return `code`."""
    for line in [" ".join(message.split())] if code == 2 else message.splitlines():
        print(printable(line), file=sys.stderr, flush=True)
    return code


@contextmanager
def failures() -> Iterator[None]:
    """Turn the death of a worker, and a comparison of nothing, into a failed check."""
    try:
        yield
    except (WorkerFailed, NothingCompared) as error:
        raise Failed(str(error)) from None
