"""After a watch, a model is as before, except for the dtype and values of its tensors."""

from __future__ import annotations

import subprocess
import sys

from helpers.paths import ROOT

CLOSED = """
import sys
import numpy as np
from parity.backend.registry import make_backend
from parity.backend.watched_model import WatchedModel
from parity.recipe.optimizer import Optimizer

backend = make_backend(sys.argv[1])
if sys.argv[1] == "torch":
    from torch import nn
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
else:
    from paddle import nn
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1D(4), nn.Linear(4, 2))
model.train()
model[1].eval()
frozen = model[0].weight
backend.require_gradient(frozen, False)

def hooks():
    return sum(len(value) for _, module in backend.named_modules(model) for name, value in vars(module).items() if "_hooks" in name)

def modes():
    return [module.training for _, module in backend.named_modules(model)]

def needs():
    return [backend.needs_gradient(tensor) for tensor in model.parameters()]

before = hooks(), modes(), needs(), backend.get_default_dtype()
assert before[3] == "float32" and modes() == [True, True, False, True]
watched = WatchedModel(backend, model, Optimizer("momentum", 0.1))
watched.compute_in("float64")
watched.watch.wanted = {"0", "1", "2"}
watched.watch.begin({}, 0)
x = np.random.default_rng(0).standard_normal((5, 3))
outputs = watched.run([x], train=True)
assert outputs[""].dtype == np.float64 and len(watched.watch.calls) == 3
watched.backward({"": np.ones((5, 2))})
watched.update({})
watched.run([x], train=False)
assert hooks() == before[0] + 8 and modes() == [False] * 4 and backend.get_default_dtype() == "float64"
watched.close()
watched.close()
assert (hooks(), modes(), needs(), backend.get_default_dtype()) == before, (hooks(), modes(), needs())
calls = len(watched.watch.calls)
model.eval()
model(backend.from_numpy(x, "cpu"))
assert len(watched.watch.calls) == calls
"""


def test_a_closed_watch_restores_hooks_modes_gradients_and_the_default_dtype(framework: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, framework], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
