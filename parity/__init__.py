"""PaddlePaddle, PyTorch and ONNX: are two models equal, and where do they diverge if not?

    import parity

    outcome = parity.compare_models(torch_model, paddle_model, inputs)
    print(outcome.verdict, outcome.sentence())

`parity.api` holds what this module offers. Importing it loads no framework: that happens at the first call that needs one.
"""

from typing import TYPE_CHECKING, Any

from parity.version import __version__

if TYPE_CHECKING:
    from parity.api import Network, assert_models_equal, assert_parity, build, compare_models, get_network, load

__all__ = [
    "Network",
    "__version__",
    "assert_models_equal",
    "assert_parity",
    "build",
    "compare_models",
    "get_network",
    "load",
]


def __getattr__(name: str) -> Any:
    """Imports `parity.api` at the first use of one of its names, so that `import parity` is instant."""
    if name in __all__:
        from parity import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
