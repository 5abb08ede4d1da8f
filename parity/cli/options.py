"""The options that several commands share: one name and one meaning for one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from parity import data
from parity.cli.command import PATH, choice, natural, option, positive, threads
from parity.inference.predict import SHIPPED
from parity.network import articles
from parity.recipe import presets

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Decorator = Callable[[Decorated], Decorated]

NETWORKS = ", ".join(articles.NETWORKS)
RECIPES = ", ".join(presets.RECIPES)
DATA_SETS = ", ".join(data.DATASETS)


def together(*options: Decorator[Any]) -> Decorator[Any]:
    """One decorator for several options, in this order."""

    def decorate(act: Any) -> Any:
        for add in reversed(options):
            act = add(act)
        return act

    return decorate


python_options = together(
    option("--paddle-python", type=PATH, metavar="EXE", help="the interpreter that has Paddle (default: this one)"),
    option("--torch-python", type=PATH, metavar="EXE", help="the interpreter that has PyTorch (default: this one)"),
)

data_dir_option = option(
    "--data-dir", type=PATH, metavar="PATH", help="the data set's archive, its unpacked folder, or our cache"
)


def device_option(default: str = "cpu", automatic: bool = True) -> Decorator[Any]:
    """--device, with `auto` where a command can choose."""
    kinds = ("auto", "cpu", "gpu") if automatic else ("cpu", "gpu")
    return option(
        "--device", type=choice(kinds), default=default, help=f"default: {default}; GPUs are not measured yet"
    )


def threads_option(whose: str = "CPU threads", default: int | None = None) -> Decorator[Any]:
    """--threads."""
    shown = default or "all cores"
    return option("--threads", type=threads, default=default, help=f"{whose} (default: {shown})")


def report_option(files: str) -> Decorator[Any]:
    """--report DIR, which gets `files`."""
    return option("--report", type=PATH, metavar="DIR", help=f"write {files}")


def model_options(runtimes: Iterable[str]) -> Decorator[Any]:
    """--model, and --framework: which of `runtimes` computes it."""
    return together(
        option(
            "--model",
            type=PATH,
            metavar="RUN|FILE",
            help=f"a run folder, a .safetensors or a .onnx file (default: {SHIPPED.name}, which comes with the project)",
        ),
        option(
            "--framework",
            type=choice(tuple(runtimes)),
            help="what computes a run or .safetensors file (default: whichever is installed, paddle first)",
        ),
    )


limit_options = together(
    option("--train-limit", type=positive, metavar="N", help="use the first N training images only"),
    option("--test-limit", type=positive, metavar="N", help="use the first N test images only"),
)


def stages_option(names: Iterable[str]) -> Decorator[Any]:
    """--stages, all of `names` by default."""
    everything = ",".join(names)
    return option("--stages", metavar="LIST", default=everything, help=f"some of {everything} (default: all)")


def comparison_options(steps: int | None, usual: str, twins: str) -> Decorator[Any]:
    """The options of every comparison that trains; `usual` and `twins` say how many steps and one-ULP twins there are by default."""
    return together(
        option(
            "--dtype",
            type=choice(("float64", "float32")),
            default="float64",
            help="float64 proves; float32 is held against its one-ULP twins",
        ),
        option("--steps", type=positive, default=steps, help=f"training steps, for the trajectory ({usual})"),
        option("--seed", type=natural, default=0, help="of weights, images and masks (default: 0)"),
        option(
            "--twins",
            type=natural,
            metavar="N",
            help=f"one-ULP twins beside it, the farthest of which counts ({twins})",
        ),
        option("--isolate", is_flag=True, help="also compare layer by layer, each on the reference's own input"),
    )
