"""What `import parity` offers: functions for Python programs and their tests. The command line offers the same and more."""

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
from parity.weights import canonical_state
from parity.weights.canonical_state import State

DTYPES = ("float32", "float64")

__all__ = ["Network", "assert_models_equal", "assert_parity", "build", "compare_models", "get_network", "load"]


def assert_parity(
    network: str | Network,
    recipe: str = "article",
    steps: int = STEPS,
    batch_size: int = 8,
    plain: bool = False,
    **checked: Any,
) -> CheckOutcome:
    """Raises `AssertionError` unless Paddle and PyTorch train `network` alike, tensor by tensor; returns what was compared.

    `network` is a `Network`, a known name or the path of a network's JSON file; `checked` are further fields of `Check` (`seed`, `dtype`,
    `stages`, `state`, `dataset`; by default CIFAR-10, else the embedded shapes10). `plain` starts from fresh weights and leaves the recipe
    as it is, see `parity.compare.default_inputs`. Both frameworks must be installed, each gets its own
    process. `InputError` for a network or recipe that is not known.

        def test_my_network():
            parity.assert_parity("my_network.json", recipe="article")
    """
    if unknown := [stage for stage in checked.get("stages", ()) if stage not in STAGES]:
        raise InputError(f"unknown stage {unknown[0]!r}{suggest(unknown[0], STAGES)}; known: {', '.join(STAGES)}")
    made = articles.get_network(network) if isinstance(network, str) else network
    dataset = checked.pop("dataset", None) or data.load_auto()[0]
    how = changed(presets.get_recipe(recipe), batch_size=batch_size)
    check = make_check(made, how, dataset, plain, steps=steps, **checked)
    with Worker("torch", threads=1) as torch, Worker("paddle", threads=1) as paddle:
        outcome = run_check(check, {"torch": torch, "paddle": paddle}, onnx=compare_through_onnx)
    if outcome.first is not None:
        raise AssertionError(f"{made.name} is different in Paddle and PyTorch: {outcome.first.sentence()}")
    outcome.summaries()
    return outcome


def get_network(name: str) -> Network:
    """Return the network called `name`, one of the articles' or of a file.

        network = parity.get_network("vgg16_bn_drop@0.25")  # a quarter of the filters
        network = parity.get_network("my_network.json")

    See `parity.network.articles.get_network` for all forms of names. `InputError` lists the known names.
    """
    return articles.get_network(name)


def load(path: str | Path) -> tuple[Network, State, dict[str, str]]:
    """Return the network, canonical state and metadata of a .safetensors file of this project, or of a run folder's last checkpoint.

        network, state, metadata = parity.load("runs/RUN/last.safetensors")

    The state maps names such as `conv1_1.weight` to arrays: convolutions [out, in, height, width], linear layers [out, in], optimizer
    slots as `optimizer.SLOT.PARAMETER`. `InputError` for a file that cannot be read, is damaged, or is of somebody else.
    """
    place = Path(path)
    return canonical_state.load(place / "last.safetensors" if place.is_dir() else place)


def build(network: Network | str, framework: str, state: State | int = 0, dtype: str = "float32") -> Any:
    """Return a `torch.nn.Module` or `paddle.nn.Layer` of `network`, in training mode.

        model = parity.build("vgg_mini", "torch")  # fresh weights from seed 0, the same bits in both frameworks
        network, state, _ = parity.load("best.safetensors")
        model = parity.build(network, "paddle", state)

    `framework` is "torch" or "paddle". `state` is a seed, or a canonical state, whose optimizer slots are left out. `dtype` is "float32" or
    "float64". `InputError` where the framework is not installed or the state does not fit.
    """
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    made = articles.get_network(network) if isinstance(network, str) else network
    if not isinstance(state, int):
        state = {name: array for name, array in state.items() if not name.startswith("optimizer.")}
    return model_state.build(make_backend(framework), made, state, dtype)
