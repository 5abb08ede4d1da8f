"""The options of `vgg-parity train`, and its resume command."""

from __future__ import annotations

import math
import shlex
import sys

from parity.cli.command import PATH, PROGRAM, Options, Parsed, choice, flag, natural, option, positive, program
from parity.cli.options import (
    DATA_SETS,
    NETWORKS,
    RECIPES,
    data_dir_option,
    device_option,
    limit_options,
    threads_option,
    together,
)
from parity.errors import InputError
from parity.network.initialisers import float32
from parity.process_group import ProcessGroup
from parity.recipe.precision import AUTO, GAIN, LAYOUTS, PRECISIONS, check_device, check_layout
from parity.report import plots
from parity.training.run_folder import RunFolder

CPU_NETWORK, GPU_NETWORK, RECIPE = "vgg16_bn_drop@0.125", "vgg16_bn_drop", "quick"
"""What is trained without options."""

FIXED_ON_RESUME = (
    "network",
    "recipe",
    "data",
    "learning_rate",
    "batch_size",
    "seed",
    "train_limit",
    "test_limit",
    "hold_out",
    "scale_jitter",
    "amp",
    "layout",
    "output",
    "eval_only",
)
TRAINING_ONLY = (
    "epochs",
    "learning_rate",
    "batch_size",
    "seed",
    "train_limit",
    "hold_out",
    "scale_jitter",
    "output",
    "tensorboard",
    "save_v2_tar",
    "layout",
)
"""Flags that --eval-only refuses."""

KEPT_ON_RESUME = ("data_dir", "device", "threads", "checkpoint_every", "tensorboard", "save_v2_tar", "json")
"""Flags that config.json does not hold: the resume command repeats them."""


def scales(text: str) -> tuple[int, int]:
    """Parse a range LOW,HIGH of whole numbers. One number is both."""
    low, _, high = text.partition(",")
    return positive(low), positive(high or low)


def learning_rate(text: str) -> float:
    """Parse a learning rate. `ValueError` unless it is a finite number above 0, also in float32."""
    rate = float32(float(text))
    if not 0 < rate < math.inf:
        raise ValueError(text)
    return rate


train_options = together(
    option(
        "--network",
        metavar="NAME",
        help=f"{NETWORKS}, or NAME@WIDTH (default: the network of the recipe, else {GPU_NETWORK}; on a CPU {CPU_NETWORK})",
    ),
    option(
        "--recipe",
        metavar="NAME",
        help=f"{RECIPES}, or a FILE.json (default: the recipe of the network, else {RECIPE})",
    ),
    option(
        "--data",
        metavar="NAME",
        help=f"auto, {DATA_SETS}, or folder:DIR, a folder with one sub-folder of pictures per class (default: auto, "
        "which is CIFAR-10 if it can be loaded, else shapes10)",
    ),
    data_dir_option,
    option(
        "--epochs",
        type=positive,
        help="number of epochs (default: the recipe's); with --resume, a larger number makes the run longer if its learning rate does "
        "not depend on the number of epochs",
    ),
    option(
        "--learning-rate",
        type=Parsed(learning_rate, "a number above 0 that float32 holds"),
        metavar="X",
        help="learning rate instead of the recipe's; its schedule and the rates of its groups multiply X as before (default: the recipe's)",
    ),
    option("--batch-size", type=positive, help="images per update, over all processes (default: the recipe's)"),
    option("--seed", type=natural, help="seed of all random numbers (default: 0)"),
    limit_options,
    option(
        "--scale-jitter",
        type=Parsed(scales, "a range such as 256,512"),
        metavar="LOW[,HIGH]",
        help="rescale every training image so that its smaller side has a random number of pixels from LOW to HIGH, and crop the network's "
        "input size; the VGG paper uses 256,512 (default: the recipe's; without one, images of a folder are resized as a whole)",
    ),
    device_option("auto"),
    threads_option("CPU threads of each process; processes share the cores"),
    option(
        "--amp",
        type=choice((*PRECISIONS, AUTO)),
        help="mixed precision: bf16 on a GPU or, in PyTorch, on a CPU with AVX512-BF16 or AMX; fp16 on a GPU, where a resumed run starts "
        f"again at the first loss scale; auto takes bf16 if a timed step is {GAIN} times as fast; unmeasured on GPUs (default: off)",
    ),
    option(
        "--layout",
        type=choice(LAYOUTS),
        help="order of the axes of images in memory, in PyTorch (default: by the kind of processor)",
    ),
    option("--output", type=PATH, metavar="DIR", help="run folder (default: a new one under runs/)"),
    option("--resume", type=PATH, metavar="RUN", help="resume the run in this folder"),
    option(
        "--eval-only",
        type=PATH,
        metavar="RUN|FILE",
        help="only test the last checkpoint of a run, or a .safetensors file",
    ),
    option(
        "--checkpoint-every",
        type=natural,
        default=60,
        metavar="SECONDS",
        help="longest time between two checkpoints (default: 60)",
    ),
    option("--tensorboard", is_flag=True, help="also write TensorBoard events into the run folder"),
    option(
        "--save-v2-tar",
        is_flag=True,
        help="after each epoch, also write Paddle v2's params_pass_N.tar, as the article does",
    ),
)


def check_flags(framework: str, options: Options, process_group: ProcessGroup) -> None:
    """Raise `InputError` for flags that exclude each other, or that need what `framework` or this machine does not have."""
    modes = {
        "resume": (FIXED_ON_RESUME, "the run's config.json sets it"),
        "eval_only": (TRAINING_ONLY, "that only tests"),
    }
    for mode, (refused, why) in modes.items():
        for name in refused if getattr(options, mode) is not None else ():
            if getattr(options, name) is not None and getattr(options, name) is not False:
                raise InputError(f"{flag(name)} cannot be given with {flag(mode)}: {why}")
    if options.eval_only and process_group.size > 1:
        raise InputError("--eval-only runs in one process: start it without a launcher")
    if options.eval_only and options.amp == AUTO:
        raise InputError(f"--amp {AUTO} times training: name the precision of --eval-only")
    if options.amp != AUTO:
        check_device(options.amp or "off", framework, options.device)
    check_layout(options.layout, framework)
    if options.tensorboard:
        plots.check_tensorboard()


DEFAULTS = {"device": "auto", "checkpoint_every": 60}
"""Defaults of the options in `KEPT_ON_RESUME`. Those that are not listed are None or False."""


def command_to_train(framework: str, process_group: ProcessGroup) -> str:
    """Return the command that starts training in `framework` as this process was started: script or `vgg-parity`, launcher or none."""
    words = program("train")
    if words[0] != PROGRAM:
        return process_group.command(framework, words[1])
    rest = shlex.join([*words[1:], "--framework", framework])
    several = process_group.command(framework, f"{shlex.quote(sys.argv[0])} {rest}")
    return f"{PROGRAM} {rest}" if process_group.size == 1 else several


def command_to_resume(framework: str, options: Options, run: RunFolder, process_group: ProcessGroup) -> str:
    """Return the command that resumes `run` with the same `options`."""
    words = [*shlex.split(command_to_train(framework, process_group)), *_words("resume", run.folder)]
    for name in KEPT_ON_RESUME:
        value = getattr(options, name)
        if value is not None and value is not False and value != DEFAULTS.get(name):
            words += _words(name, value)
    return shlex.join(words)


def _words(name: str, value: object) -> list[str]:
    """Return the words that set an option. A value such as the folder `-run` is joined with =, or it would be read as a flag."""
    if value is True:
        return [flag(name)]
    return [f"{flag(name)}={value}"] if str(value).startswith("-") else [flag(name), str(value)]
