"""Tell whether two models are equal in PaddlePaddle, PyTorch and ONNX, and where they diverge.

    import parity

    outcome = parity.compare_models(torch_model, paddle_model, inputs)
    print(outcome.verdict, outcome.sentence())

The functions are in `parity.api`. Importing this module loads no framework. The first call that needs a framework does.
"""

from typing import TYPE_CHECKING, Any

from parity.version import __version__

if TYPE_CHECKING:
    from parity.api import (
        Network,
        assert_models_equal,
        assert_parity,
        build,
        compare_models,
        compare_recordings,
        get_network,
        load,
        record,
        replay,
    )

__all__ = [
    "Network",
    "__version__",
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


def __getattr__(name: str) -> Any:
    """Import `parity.api` at the first use of one of its names, so that `import parity` is fast."""
    if name in __all__:
        from parity import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
