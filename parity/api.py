"""The functions that `import parity` offers to Python programs and their tests.

The command line offers the same and more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from parity import data
from parity.backend import model_state
from parity.backend.registry import make_backend
from parity.backend.worker import Worker
from parity.compare.check import CheckOutcome, make_check, run_check
from parity.compare.default_inputs import STEPS
from parity.compare.verdicts import STAGES
from parity.errors import InputError, suggest
from parity.network import articles
from parity.network.network import Network
from parity.onnx.comparison import compare_through_onnx
from parity.pairs.compare_models import assert_models_equal, compare_models
from parity.recipe import presets
from parity.recipe.recipe import changed
from parity.recordings.compare_recordings import compare_recordings
from parity.recordings.recorder import record
from parity.recordings.replay import replay
from parity.weights import canonical_state
from parity.weights.canonical_state import State

DTYPES = ("float32", "float64")

__all__ = [
    "Network",
    "assert_models_equal",
    "assert_parity",
    "build",
    "compare_models",
    "compare_recordings",
    "get_network",
    "load",
    "record",
    "replay",
]


def assert_parity(
    network: str | Network,
    recipe: str = "article",
    steps: int = STEPS,
    batch_size: int = 8,
    plain: bool = False,
    **fields: Any,
) -> CheckOutcome:
    """Assert that Paddle and PyTorch train a network alike, tensor by tensor.

    Both frameworks must be installed. Each runs in a process of its own.

    Args:
        network: A `Network`, a name that `get_network` knows, or the path of a network's JSON file.
        recipe: The name of a recipe, such as "article" or "adam".
        steps: Training steps.
        batch_size: Images in a step.
        plain: Start from fresh weights and leave the recipe as it is. By default the check changes both, so that more
            faults show (`parity.compare.default_inputs`).
        **fields: Further fields of `parity.compare.check.Check`. `seed` is an integer, `dtype` "float64", "float32" or "bfloat16",
            `stages` a tuple of stage names, `state` the canonical state to start from. `dataset` is a
            `parity.data.Dataset`, by default CIFAR-10, or the generated images `shapes10` if CIFAR-10 is not available.

    Returns:
        What was compared: verdict, stages and trajectory.

    Raises:
        AssertionError: The sides are different. The message names the first divergence and its likely cause. The same
            error is raised if a stage compared no tensor.
        InputError: The network, the recipe or a stage is not known.
        WorkerFailed: A process died.

    Examples:
        ```python
        def test_my_network():
            parity.assert_parity("my_network.json", recipe="article")
        ```
    """
    if unknown := [stage for stage in fields.get("stages", ()) if stage not in STAGES]:
        raise InputError(f"unknown stage {unknown[0]!r}{suggest(unknown[0], STAGES)}; known: {', '.join(STAGES)}")
    network = articles.get_network(network) if isinstance(network, str) else network
    dataset = fields.pop("dataset", None) or data.load_auto()[0]
    check_recipe = changed(presets.get_recipe(recipe), batch_size=batch_size)
    check = make_check(network, check_recipe, dataset, plain, steps=steps, **fields)
    with Worker("torch", threads=1) as torch, Worker("paddle", threads=1) as paddle:
        outcome = run_check(check, {"torch": torch, "paddle": paddle}, onnx=compare_through_onnx)
    if outcome.first is not None:
        raise AssertionError(f"{network.name} is different in Paddle and PyTorch: {outcome.first.sentence()}")
    outcome.summaries()
    return outcome


def get_network(name: str) -> Network:
    """Return the network of a name, a JSON file or a pattern.

    Args:
        name: One of the forms below.

            - `NAME`: a network of the articles, such as "vgg16_bn_drop".
            - `NAME@WIDTH`: the same with `WIDTH` times the filters, units and dropout rates.
            - `NAME@WIDTHxSIZE`: the same for images of `SIZE` by `SIZE` pixels.
            - `NAME+classesK`: the same with `K` class scores.
            - `NAME+dense` or `NAME+denseSIZE`: the same with linear layers as convolutions.
            - `FILE.json`: a file that holds the text of `Network.to_json`.
            - `INPUT -> ...`: a pattern, such as "INPUT -> [[CONV -> RELU]*2 -> POOL]*2 -> FC".

    Returns:
        The network.

    Raises:
        InputError: The name is not known, or the file or pattern is no network. The message lists the known names.

    Examples:
        ```python
        network = parity.get_network("vgg16_bn_drop@0.25")  # a quarter of the filters
        network = parity.get_network("my_network.json")
        ```
    """
    return articles.get_network(name)


def load(path: str | Path) -> tuple[Network, State, dict[str, str]]:
    """Read a checkpoint of this project.

    Args:
        path: A `.safetensors` file, or a run folder. In a run folder the last checkpoint is read.

    Returns:
        Three values: the network; its canonical state; and the metadata of the file, texts by key. The state is a dict
            of numpy arrays by name, such as "conv1_1.weight", in the dtype of the file. Weights of convolutions have
            the shape [out, in, height, width], those of linear layers [out, in], arrays of batch norms [channels].
            Optimizer slots are named `optimizer.SLOT.PARAMETER` and have the shape of their parameter.

    Raises:
        InputError: The file cannot be read, is damaged, or was written by another tool.

    Examples:
        ```python
        network, state, metadata = parity.load("runs/RUN/last.safetensors")
        ```
    """
    place = Path(path)
    return canonical_state.load(place / "last.safetensors" if place.is_dir() else place)


def build(network: Network | str, framework: str, state: State | int = 0, dtype: str = "float32") -> Any:
    """Build a network in a framework, in training mode.

    Args:
        network: A `Network`, or a name that `get_network` knows.
        framework: "torch" or "paddle".
        state: A seed, or a canonical state as `load` returns it. One seed gives the same weights in both frameworks,
            bit for bit. Optimizer slots of a state are left out.
        dtype: "float32" or "float64".

    Returns:
        A `torch.nn.Module` or a `paddle.nn.Layer`. It maps images [N, channels, height, width] to logits [N, classes].

    Raises:
        InputError: The framework is not installed, the dtype is not known, or the state does not fit the network.

    Examples:
        ```python
        model = parity.build("vgg_mini", "torch")  # fresh weights from seed 0
        network, state, metadata = parity.load("best.safetensors")
        model = parity.build(network, "paddle", state)
        ```
    """
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    network = articles.get_network(network) if isinstance(network, str) else network
    if not isinstance(state, int):
        state = {name: array for name, array in state.items() if not name.startswith("optimizer.")}
    return model_state.build(make_backend(framework), network, state, dtype)
