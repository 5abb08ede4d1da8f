"""The executable `vgg-parity`. It imports only the command that is called."""

from __future__ import annotations

import importlib

import click

from parity.cli.command import PROGRAM, SETTINGS, run
from parity.errors import suggest
from parity.version import __version__

COMMANDS = {
    "train": "Train, resume or test a network of the articles.",
    "check": "Check that Paddle and PyTorch train a network of this project equally.",
    "compare": "Compare two models of your own.",
    "pairs": "Compare networks of torchvision with those of paddle.vision.",
    "export": "Export a network to ONNX, and verify the file.",
    "convert": "Convert weights between Paddle, PyTorch, safetensors and PaddlePaddle v2.",
    "predict": "Predict the classes of pictures.",
    "evaluate": "Measure the error of a model, with one or several views of each picture.",
    "describe": "Show the cost of networks, layer by layer.",
    "bench": "Measure the speed of training or inference.",
    "experiment": "Run an experiment of the articles.",
    "runs": "Compare the accuracies of training runs.",
    "selftest": "Plant every known fault, and count how many the check finds.",
}
"""The commands and their summaries. Each is a module of this package that takes seconds to import."""


class Commands(click.Group):
    """The group of all `COMMANDS`."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return their names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return the command of that name, or None."""
        if name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"parity.cli.{name}").main
        return found

    def resolve_command(
        self, context: click.Context, words: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first of `words` names. `UsageError`, which suggests the nearest name, if there is none."""
        if words[0] not in COMMANDS:
            raise click.UsageError(f"no such command {words[0]!r}{suggest(words[0], COMMANDS)}", context)
        return super().resolve_command(context, words)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write names and summaries without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    context_settings=SETTINGS,
    help="Check whether two networks are equal in PaddlePaddle, PyTorch and ONNX, and find where they diverge.",
    epilog=f"{PROGRAM} COMMAND --help explains a command. Exit codes: 0 done, 1 the check or the run failed, "
    "2 bad usage or input, 130 stopped. "
    f'Shell completion in bash: eval "$(_VGG_PARITY_COMPLETE=bash_source {PROGRAM})"; the same for zsh and fish.',
)
@click.version_option(__version__, prog_name=PROGRAM)
def commands() -> None:
    """Hold the commands."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Return the exit code."""
    return run(commands, arguments, PROGRAM)
