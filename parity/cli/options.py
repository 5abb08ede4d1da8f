"""Options that several commands share, so that they have the same name and meaning everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from parity import data
from parity.cli.command import PATH, choice, natural, option, positive, threads
from parity.inference.outputs import AUTO, OUTPUTS
from parity.inference.predict import SHIPPED
from parity.network import articles
from parity.recipe import presets

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Decorator = Callable[[Decorated], Decorated]

NETWORKS = ", ".join(articles.NETWORKS)
RECIPES = ", ".join(presets.RECIPES)
DATA_SETS = ", ".join(data.DATASETS)


def together(*options: Decorator[Any]) -> Decorator[Any]:
    """Return one decorator for several options, in this order."""

    def decorate(act: Any) -> Any:
        for add in reversed(options):
            act = add(act)
        return act

    return decorate


python_options = together(
    option("--paddle-python", type=PATH, metavar="EXE", help="Python interpreter that has Paddle (default: this one)"),
    option("--torch-python", type=PATH, metavar="EXE", help="Python interpreter that has PyTorch (default: this one)"),
)

data_dir_option = option(
    "--data-dir",
    type=PATH,
    metavar="PATH",
    help="archive of the data set, its unpacked folder, or the cache of vgg-parity",
)


def device_option(default: str = "cpu", automatic: bool = True) -> Decorator[Any]:
    """Return --device, with `auto` if a command can choose."""
    kinds = ("auto", "cpu", "gpu") if automatic else ("cpu", "gpu")
    return option(
        "--device",
        type=choice(kinds),
        default=default,
        help=f"where to compute (default: {default}); unmeasured on GPUs",
    )


def threads_option(whose: str = "CPU threads", default: int | None = None, others: str = "") -> Decorator[Any]:
    """Return --threads. `others` describes defaults that the command sets itself."""
    shown = f"{default or 'all cores'}{others}"
    return option("--threads", type=threads, default=default, help=f"{whose} (default: {shown})")


def report_option(files: str) -> Decorator[Any]:
    """Return --report DIR, the folder for `files`."""
    return option("--report", type=PATH, metavar="DIR", help=f"write {files} into this folder")


def model_options(runtimes: Iterable[str]) -> Decorator[Any]:
    """Return --model, --framework to choose one of `runtimes`, and --outputs."""
    return together(
        option(
            "--model",
            type=PATH,
            metavar="RUN|FILE",
            help=f"a run folder, a .safetensors file or a .onnx file (default: {SHIPPED.name}, which comes with the project)",
        ),
        option(
            "--framework",
            type=choice(tuple(runtimes)),
            help="the framework that computes a run or a .safetensors file (default: the one that is installed, paddle if both are)",
        ),
        option(
            "--outputs",
            type=choice(OUTPUTS),
            default=AUTO,
            help="what a .onnx file yields: scores before the softmax, or probabilities (default: auto, by its graph and its values)",
        ),
    )


limit_options = together(
    option("--train-limit", type=positive, metavar="N", help="use only the first N training images"),
    option("--test-limit", type=positive, metavar="N", help="use only the first N test images"),
    option(
        "--hold-out",
        type=positive,
        metavar="N",
        help="test on N training images that train nothing, the same in every run, instead of the test images: for choosing a recipe",
    ),
)


def stages_option(names: Iterable[str], *more: str) -> Decorator[Any]:
    """Return --stages, by default all of `names`; `more` are stages that run only if they are named."""
    everything = ",".join(names)
    default = f"all but {','.join(more)}" if more else "all"
    return option(
        "--stages",
        metavar="LIST",
        default=everything,
        help=f"stages to run, some of {','.join((*more, everything))} (default: {default})",
    )


def comparison_options(
    steps: int | None, usual: str, twins: str, halves: Sequence[str], chosen: bool = False
) -> Decorator[Any]:
    """Return the options of every comparison that trains. `usual` and `twins` describe the default numbers of steps and one-ULP twins.

    `halves` are the dtypes beside float64 and float32. If `chosen` by the models, the default is None.
    """
    default = "float64; bfloat16 or float16 if both models are" if chosen else "float64"
    return together(
        option(
            "--dtype",
            type=choice(("float64", "float32", *halves)),
            default=None if chosen else "float64",
            help="float64 (meant for the CPU) has the strictest tolerances; other dtypes take their tolerances from one-ULP twins "
            f"(default: {default})",
        ),
        option("--steps", type=positive, default=steps, help=f"number of training steps of the trajectory ({usual})"),
        option("--seed", type=natural, default=0, help="seed of weights, images and masks (default: 0)"),
        option(
            "--twins",
            type=natural,
            metavar="N",
            help=f"number of one-ULP twins: runs of the reference whose weights and pixels are changed by one rounding step; the largest "
            f"of their errors counts ({twins})",
        ),
        option("--isolate", is_flag=True, help="also compare each layer alone, on the reference's input"),
    )
