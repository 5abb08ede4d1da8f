"""The executable `vgg-parity`: its commands, of which one is imported when it is asked for."""

from __future__ import annotations

import importlib

import click

from parity.cli.command import PROGRAM, SETTINGS, run
from parity.errors import suggest
from parity.version import __version__

COMMANDS = {
    "train": "Train, resume or test a network of the articles.",
    "check": "Check that Paddle and PyTorch train a network of ours alike.",
    "compare": "Compare two models of your own.",
    "pairs": "Compare networks of torchvision with those of paddle.vision.",
    "export": "Export a network to ONNX, verified.",
    "convert": "Convert weights between Paddle, PyTorch, safetensors and PaddlePaddle v2.",
    "predict": "Predict the classes of pictures.",
    "evaluate": "Test a model by one view of every picture, or by many.",
    "describe": "Say what networks cost, layer by layer.",
    "bench": "Time training or inference.",
    "experiment": "Run an experiment of the articles.",
    "runs": "Compare the accuracies of training runs.",
    "selftest": "Plant every fault of the catalogue, and count what is found.",
}
"""The commands and what they do: a module of this package each, which takes seconds to import."""


class Commands(click.Group):
    """The group of all `COMMANDS`."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Their names, in the order in which help shows them."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of that name; None where there is none."""
        if name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"parity.cli.{name}").main
        return found

    def resolve_command(
        self, context: click.Context, words: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first of `words` names; `UsageError` with the nearest name where there is none."""
        if words[0] not in COMMANDS:
            raise click.UsageError(f"no such command {words[0]!r}{suggest(words[0], COMMANDS)}", context)
        return super().resolve_command(context, words)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes names and summaries without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    context_settings=SETTINGS,
    help="PaddlePaddle, PyTorch and ONNX: are two networks equal, and where do they diverge if not?",
    epilog=f"{PROGRAM} COMMAND --help explains a command. Exit codes: 0 done, 1 the check or the run failed, "
    "2 bad usage or input, 130 stopped. "
    f'Completion in bash: eval "$(_VGG_PARITY_COMPLETE=bash_source {PROGRAM})"; zsh and fish likewise.',
)
@click.version_option(__version__, prog_name=PROGRAM)
def commands() -> None:
    """Only holds the commands."""


def main(arguments: list[str] | None = None) -> int:
    """Does what the command line asks for; returns the exit code."""
    return run(commands, arguments, PROGRAM)
