"""The flags of `scripts/train_paddle.py` and `scripts/train_torch.py`, and the command that continues a run."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from parity import data
from parity.backend.registry import FRAMEWORKS
from parity.cli.command import Parser, flag, natural, positive, threads
from parity.errors import InputError
from parity.network import articles
from parity.process_group import LAUNCHERS, World
from parity.recipe import precision, presets
from parity.report import plots
from parity.training.run_folder import Run

CPU_NETWORK, GPU_NETWORK, RECIPE = "vgg16_bn_drop@0.125", "vgg16_bn_drop", "quick"
"""What a run without arguments trains."""

FIXED_ON_RESUME = (
    "network",
    "recipe",
    "data",
    "epochs",
    "batch_size",
    "seed",
    "train_limit",
    "test_limit",
    "scale_jitter",
    "out",
    "eval_only",
)
TRAINING_ONLY = (
    "epochs",
    "batch_size",
    "seed",
    "train_limit",
    "scale_jitter",
    "out",
    "tensorboard",
    "save_v2_tar",
    "amp",
)
"""Flags that mean nothing to --eval-only."""

KEPT_ON_RESUME = ("data_dir", "device", "threads", "amp", "checkpoint_every", "tensorboard", "save_v2_tar", "json")
"""Flags that config.json does not hold: the command that continues a run repeats them."""


NO_AMP = "--amp needs a GPU: leave it out"


def parser(framework: str) -> Parser:
    """The flags, the same for both frameworks."""
    script = f"python scripts/train_{framework}.py"
    flags = Parser(
        f"Train a network of the articles in {FRAMEWORKS[framework]}. Without arguments: the best that this machine does in minutes.",
        f"  {script}\n"
        f"  {script} --network vgg_mini --recipe adam --data cifar10 --epochs 3 --json\n"
        f"  {script} --network vgg_a@0.25x64 --data folder:pictures --scale-jitter 72,128\n"
        f"  {script} --network vgg16_bn_drop --recipe article        (the article's 200 passes)\n"
        f"  {script} --resume runs/RUN\n"
        f"  {script} --eval-only runs/RUN\n"
        f"  {LAUNCHERS[framework]} --nproc_per_node 8 scripts/train_{framework}.py --recipe article   (eight processes, a GPU each)",
    )
    add = flags.add_argument
    add(
        "--network",
        metavar="NAME",
        help=f"{', '.join(articles.NETWORKS)}, or NAME@WIDTH (default: the recipe's own, else {GPU_NETWORK}, on "
        "CPU @0.125)",
    )
    add(
        "--recipe",
        metavar="NAME",
        help=f"{', '.join(presets.RECIPES)}, or a FILE.json (default: the network's own, else {RECIPE})",
    )
    add(
        "--data",
        metavar="NAME",
        help=f"auto, {', '.join(data.DATASETS)}, or folder:DIR, pictures in one sub-folder a class (default: auto: "
        "CIFAR-10 if it can be had)",
    )
    add("--data-dir", type=Path, metavar="PATH", help="the data set's archive, its unpacked folder, or our cache")
    add("--epochs", type=positive, help="passes over the training images (default: the recipe's)")
    add("--batch-size", type=positive, help="images per update, of all processes together (default: the recipe's)")
    add("--seed", type=natural, help="start of all random numbers (default: 0)")
    add("--train-limit", type=positive, metavar="N", help="use the first N training images only")
    add("--test-limit", type=positive, metavar="N", help="use the first N test images only")
    add(
        "--scale-jitter",
        type=scales,
        metavar="LOW[,HIGH]",
        help="rescale every training image so that its smaller side has LOW to HIGH pixels, drawn anew each time, and crop what the "
        "network takes, as the VGG paper does with 256,512 (default: the recipe's; images of a folder are then resized as a whole)",
    )
    add("--device", choices=("auto", "cpu", "gpu"), default="auto")
    add("--threads", type=threads, help="CPU threads of a process (default: all cores, shared out)")
    add(
        "--amp",
        choices=precision.PRECISIONS,
        help="mixed precision on a GPU; not measured yet, and a resumed fp16 run scales its loss anew (default: off)",
    )
    add("--out", type=Path, metavar="DIR", help="run folder (default: a new one under runs/)")
    add("--resume", type=Path, metavar="RUN", help="continue the run in this folder")
    add(
        "--eval-only",
        type=Path,
        metavar="RUN|FILE",
        help="test a run's last checkpoint, or a .safetensors file, and stop",
    )
    add(
        "--checkpoint-every",
        type=natural,
        default=60,
        metavar="SECONDS",
        help="at most this between checkpoints (default: 60)",
    )
    add("--tensorboard", action="store_true", help="also write TensorBoard events into the run folder")
    add(
        "--save-v2-tar",
        action="store_true",
        help="after each pass, also write Paddle v2's params_pass_N.tar, as the article does",
    )
    return flags


def scales(text: str) -> tuple[int, int]:
    """The least and the largest of a range LOW,HIGH of whole numbers, or of one number."""
    low, _, high = text.partition(",")
    return positive(low), positive(high or low)


scales.__name__ = "range such as 256,512"


def check_flags(options: argparse.Namespace, world: World) -> None:
    """`InputError` for flags that do not go together or that nothing here can serve."""
    modes = {
        "resume": (FIXED_ON_RESUME, "the run's config.json decides it"),
        "eval_only": (TRAINING_ONLY, "it only tests"),
    }
    for mode, (refused, why) in modes.items():
        for name in refused if getattr(options, mode) is not None else ():
            if getattr(options, name) is not None and getattr(options, name) is not False:
                raise InputError(f"{flag(name)} cannot be given with {flag(mode)}: {why}")
    if options.eval_only and world.size > 1:
        raise InputError("--eval-only tests in one process: start it with plain python")
    if options.amp not in (None, "off") and options.device == "cpu":
        raise InputError(NO_AMP)
    if options.tensorboard:
        plots.check_tensorboard()


def command_to_resume(framework: str, options: argparse.Namespace, run: Run, world: World) -> str:
    """What continues `run` in the way that `options` ask for."""
    start = world.command(framework, f"scripts/train_{framework}.py")
    words, default = [*start.split(), *_words("resume", run.folder)], parser(framework)
    for name in KEPT_ON_RESUME:
        value = getattr(options, name)
        if value != default.get_default(name):
            words += _words(name, value)
    return shlex.join(words)


def _words(name: str, value: object) -> list[str]:
    """The words that set an option; a value such as the folder `-run` would be taken for a flag if it stood alone."""
    if value is True:
        return [flag(name)]
    return [f"{flag(name)}={value}"] if str(value).startswith("-") else [flag(name), str(value)]
