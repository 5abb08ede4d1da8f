"""Programs that are not plain loops: other optimizers, keyword arguments, loss scaling, checkpointing, attention, deep networks."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as PF
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch.utils.checkpoint import checkpoint

import parity
from helpers import recorded_loop_paddle, recorded_loop_torch
from parity.cli.main import main
from parity.errors import InputError
from parity.recordings.compare_recordings import RecordingOutcome
from parity.recordings.recording import read_recording


class TorchBiased(torch.nn.Module):
    """A convolution with a bias before a batch norm: the gradient of the bias is zero in exact arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.bn = torch.nn.BatchNorm2d(8)
        self.fc = torch.nn.Linear(8 * 36, 5)

    def forward(self, x: Any, scale: Any = None) -> Any:
        y = self.bn(self.conv(x)).relu().flatten(1)
        return {"scores": self.fc(y if scale is None else y * scale)}


class PaddleBiased(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 8, 3)
        self.bn = paddle.nn.BatchNorm2D(8)
        self.fc = paddle.nn.Linear(8 * 36, 5)

    def forward(self, x: Any, scale: Any = None) -> Any:
        y = PF.relu(self.bn(self.conv(x))).flatten(1)
        return {"scores": self.fc(y if scale is None else y * scale)}


def record_torch(path: Path, model: torch.nn.Module, optimizer: Any, steps: int = 3, **options: Any) -> None:
    with parity.record(model, optimizer, path, steps, **options) as recorder:
        for images, labels in recorded_loop_torch.batches(steps):
            target = torch.from_numpy(labels)
            recorder.keep(labels=target)
            optimizer.zero_grad()
            out = model(torch.from_numpy(images).float(), scale=torch.tensor(0.5))
            F.cross_entropy(out["scores"], target).backward()
            optimizer.step()


def replay_paddle(path: Path, output: Path, optimizer: Any, model: Any) -> RecordingOutcome:
    with parity.replay(path, model, optimizer, output=output) as steps:
        for step in steps:
            out = model(*step.inputs, **step.named)
            PF.cross_entropy(out["scores"], step.kept["labels"]).backward()
            optimizer.step()
            optimizer.clear_grad()
    return parity.compare_recordings(path, output)


@pytest.mark.parametrize("decay", [0.01, 0.02])
def test_adam_with_gradients_that_are_rounding(tmp_path: Path, decay: float) -> None:
    torch.manual_seed(0)
    model = TorchBiased()
    record_torch(tmp_path / "torch.run", model, torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.01))
    net = PaddleBiased()
    optimizer = paddle.optimizer.AdamW(0.01, parameters=net.parameters(), weight_decay=decay)
    outcome = replay_paddle(tmp_path / "torch.run", tmp_path / "paddle.run", optimizer, net)
    assert outcome.zero_gradients == ["conv.bias"]
    assert any("changes of conv.bias, whose gradient is zero" in text for text in outcome.explained)
    if decay == 0.01:
        assert outcome.verdict != "different", outcome.sentence()
    else:
        assert outcome.verdict == "different"
        assert "decoupled weight decay: PyTorch 0.01, Paddle 0.02 at all" in " ".join(outcome.optimizers)


class OwnDescent(torch.optim.SGD):
    """Gradient descent as somebody writes it."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad, alpha=group["lr"])


@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_an_optimizer_that_somebody_wrote_is_judged_by_its_updates(tmp_path: Path, rate: float) -> None:
    torch.manual_seed(0)
    model = TorchBiased()
    record_torch(tmp_path / "torch.run", model, OwnDescent(model.parameters(), 0.1))
    net = PaddleBiased()
    optimizer = paddle.optimizer.SGD(rate, net.parameters())
    outcome = replay_paddle(tmp_path / "torch.run", tmp_path / "paddle.run", optimizer, net)
    assert "optimizer: PyTorch OwnDescent, Paddle SGD" in outcome.conditions
    assert outcome.verdict == ("equal" if rate == 0.1 else "different"), outcome.sentence()
    assert outcome.optimizers == ([] if rate == 0.1 else ["learning rate: PyTorch 0.1, Paddle 0.2 at all 6 parameters"])


class PaddleLinear(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.fc = paddle.nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        return PF.tanh(self.fc(x))


class TorchLinear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.fc(x))


OPTIMIZERS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "adamw": {
        "torch": lambda net: torch.optim.AdamW(net.parameters(), 0.1, (0.8, 0.9), weight_decay=0.1),
        "paddle": lambda net: paddle.optimizer.AdamW(0.1, 0.8, 0.9, 1e-8, net.parameters(), 0.1),
    },
    "adagrad": {
        "torch": lambda net: torch.optim.Adagrad(net.parameters(), 0.1, eps=1e-6),
        "paddle": lambda net: paddle.optimizer.Adagrad(0.1, 1e-6, net.parameters()),
    },
}
NETS: dict[str, Callable[[], Any]] = {"torch": TorchLinear, "paddle": PaddleLinear}


def train_linear(net: Any, optimizer: Any, steps: Iterable[Any], rates: Sequence[float] = ()) -> None:
    """Train on `steps` of a replay or a range; `rates` are those of the steps."""
    for number, step in enumerate(steps):
        if rates:
            optimizer.param_groups[0]["lr"] = rates[number]
        numbers = np.random.default_rng(number).standard_normal((4, 3)).astype(np.float32)
        made = torch.from_numpy if isinstance(net, torch.nn.Module) else paddle.to_tensor
        (net(made(numbers) if isinstance(step, int) else step.inputs[0]) ** 2).sum().backward()
        optimizer.step()
        (optimizer.zero_grad if isinstance(net, torch.nn.Module) else optimizer.clear_grad)()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(("recorded", "replayed"), [("torch", "paddle"), ("paddle", "torch"), ("paddle", "paddle")])
def test_a_replay_restores_an_adam_and_warns_of_others(tmp_path: Path, kind: str, recorded: str, replayed: str) -> None:
    net, other = NETS[recorded](), NETS[replayed]()
    optimizer, own = OPTIMIZERS[kind][recorded](net), OPTIMIZERS[kind][replayed](other)
    train_linear(net, optimizer, range(2))
    with parity.record(net, optimizer, tmp_path / "late"):
        train_linear(net, optimizer, range(3))
    is_restored = kind == "adamw"
    warned = contextlib.nullcontext() if is_restored else pytest.warns(UserWarning, match="late: the optimizer kept")
    with warned, parity.replay(tmp_path / "late", other, own, output=tmp_path / "out") as steps:
        train_linear(other, own, steps)
    outcome = parity.compare_recordings(tmp_path / "late", tmp_path / "out")
    assert any("state of the optimizer before step 1: " in text for text in outcome.conditions) != is_restored
    assert outcome.verdict == ("equal" if is_restored else "different"), outcome.sentence()
    assert is_restored or "cause: state of the optimizer before step 1: " in outcome.sentence()


@pytest.mark.parametrize(("slot", "array"), [("moment1", np.zeros((3, 2))), ("updates", np.zeros(2))])
def test_a_state_of_another_shape_is_refused(tmp_path: Path, slot: str, array: np.ndarray) -> None:
    net = TorchLinear()
    optimizer = OPTIMIZERS["adamw"]["torch"](net)
    train_linear(net, optimizer, range(1))
    with parity.record(net, optimizer, tmp_path / "late"):
        train_linear(net, optimizer, range(1))
    (file,) = (tmp_path / "late" / "rank0").glob("*.safetensors")
    about = metadata_of(file)
    name = f"state/{slot}/fc.weight"
    save_file({**load_file(file), name: array}, file, about)
    other = TorchLinear()
    own = OPTIMIZERS["adamw"]["torch"](other)
    with (
        pytest.raises(InputError, match=f"is damaged: {name} is no state of fc.weight"),
        parity.replay(tmp_path / "late", other, own) as steps,
    ):
        next(steps)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_fresh_optimizer_has_no_state(tmp_path: Path, kind: str) -> None:
    net, other = TorchLinear(), PaddleLinear()
    optimizer, own = OPTIMIZERS[kind]["torch"](net), OPTIMIZERS[kind]["paddle"](other)
    with parity.record(net, optimizer, tmp_path / "fresh"):
        train_linear(net, optimizer, range(3))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*the optimizer kept")
        with parity.replay(tmp_path / "fresh", other, own, output=tmp_path / "out") as steps:
            train_linear(other, own, steps)
    outcome = parity.compare_recordings(tmp_path / "fresh", tmp_path / "out")
    assert outcome.verdict == "equal" and not outcome.conditions, outcome.sentence()


@pytest.mark.parametrize("rates", [[0.3, 0.1], [0.3, 0.2]], ids=["by its step", "by the recorded step"])
def test_a_schedule_that_gaps_put_out_of_step_is_said(tmp_path: Path, rates: list[float]) -> None:
    net, other = TorchLinear(), TorchLinear()
    optimizer, own = (torch.optim.SGD(one.parameters(), 0.1) for one in (net, other))
    with parity.record(net, optimizer, tmp_path / "run", every=2):
        train_linear(net, optimizer, range(3), [0.3, 0.1, 0.2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with parity.replay(tmp_path / "run", other, own, output=tmp_path / "out") as steps:
            train_linear(other, own, steps, rates)
    said = [str(one.message) for one in caught if "step 3 is the replay's step 2" in str(one.message)]
    assert bool(said) == (rates[1] != 0.2)


@pytest.mark.parametrize("is_same", [True, False])
def test_parameters_may_be_left_out_of_clipping_in_two_ways(tmp_path: Path, is_same: bool) -> None:
    torch.manual_seed(0)
    model = TorchBiased()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with parity.record(model, optimizer, tmp_path / "torch.run", 1) as recorder:
        ((images, labels),) = recorded_loop_torch.batches(1)
        recorder.keep(labels=torch.from_numpy(labels))
        F.cross_entropy(model(torch.from_numpy(images).float())["scores"], torch.from_numpy(labels)).backward()
        clipped = model if not is_same else model.fc
        torch.nn.utils.clip_grad_norm_(clipped.parameters(), 0.01)
        optimizer.step()
    net = PaddleBiased()
    for parameter in [*net.conv.parameters(), *net.bn.parameters()]:
        parameter.need_clip = False
    descent = paddle.optimizer.SGD(0.1, net.parameters(), grad_clip=paddle.nn.ClipGradByGlobalNorm(0.01))
    outcome = replay_paddle(tmp_path / "torch.run", tmp_path / "paddle.run", descent, net)
    assert outcome.verdict == ("equal" if is_same else "different"), outcome.sentence()
    left_out = "left out of clipping: PyTorch no, Paddle yes at conv.weight, conv.bias, bn.weight, bn.bias"
    assert outcome.conditions == ([] if is_same else [left_out])
    assert is_same or left_out in outcome.sentence()
    if is_same:
        (file,) = (tmp_path / "torch.run" / "rank0").glob("*.safetensors")
        about = metadata_of(file)
        step = json.loads(about["step"])
        del step["clipped"]
        save_file(load_file(file), file, {**about, "step": json.dumps(step)})
        old = parity.compare_recordings(tmp_path / "torch.run", tmp_path / "paddle.run")
        assert old.verdict == "equal" and old.conditions == [left_out], "a recording of version 0.2.0"


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, "numpy") as opened:
        return dict(opened.metadata())


CALLS: dict[str, tuple[Callable[[TorchLinear], list[Any]], str]] = {
    "part": (
        lambda net: [iter([net.fc.weight])],
        "left out of clipping: the reference no, the candidate yes at fc.bias",
    ),
    "each": (lambda net: [net.fc.weight, net.fc.bias], "the candidate clips the norm of each gradient to 0.01"),
}


@pytest.mark.parametrize(("calls", "words"), CALLS.values(), ids=CALLS)
def test_what_a_loop_clips_is_recorded(tmp_path: Path, calls: Callable[[TorchLinear], list[Any]], words: str) -> None:
    for name, choose in (("all", lambda net: [net.parameters()]), ("other", calls)):
        torch.manual_seed(0)
        net = TorchLinear()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        with parity.record(net, optimizer, tmp_path / name, 1):
            net(torch.ones(1, 3)).sum().backward()
            for parameters in choose(net):
                torch.nn.utils.clip_grad_norm_(parameters, 0.01)
            optimizer.step()
    outcome = parity.compare_recordings(tmp_path / "all", tmp_path / "other")
    assert outcome.verdict == "different"
    assert words in outcome.sentence(), outcome.sentence()


@pytest.mark.parametrize(
    ("limit", "clips", "verdict"), [(0.05, True, "equal"), (0.05, False, "different"), (50.0, True, "different")]
)
def test_a_clipping_by_own_code_is_no_difference(tmp_path: Path, limit: float, clips: bool, verdict: str) -> None:
    torch.manual_seed(0)
    model, net = TorchLinear(), PaddleLinear()
    optimizer, x = torch.optim.SGD(model.parameters(), 0.1), torch.randn(8, 3)
    with parity.record(model, optimizer, tmp_path / "torch.run", 2):
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            size = torch.sqrt(sum(p.grad.square().sum() for p in model.parameters()))
            for parameter in model.parameters():
                parameter.grad *= min(1.0, limit / size) if clips else 1
            optimizer.step()
    clip = paddle.nn.ClipGradByGlobalNorm(limit)
    descent = paddle.optimizer.SGD(0.1, parameters=net.parameters(), grad_clip=clip)
    with parity.replay(tmp_path / "torch.run", net, descent, output=tmp_path / "paddle.run") as steps:
        for step in steps:
            net(*step.inputs).square().mean().backward()
            descent.step()
            descent.clear_grad()
    outcome = parity.compare_recordings(tmp_path / "torch.run", tmp_path / "paddle.run")
    assert outcome.verdict == verdict, outcome.sentence()
    words = f"clipping of gradients: PyTorch clips nothing, Paddle clips the norm of all gradients to {limit:g}"
    hint = "" if clips and limit < 1 else words
    assert " ".join(outcome.conditions).startswith(hint) and bool(outcome.conditions) == bool(hint)
    assert ("a clipping by own code would not show" in outcome.sentence()) == (limit > 1)
    if verdict == "equal":
        assert outcome.explained == [
            f"{words}; the other program clips by its own code, so gradients are compared after it"
        ]


def test_gradients_that_are_not_removed_are_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TorchBiased()
    record_torch(tmp_path / "torch.run", model, torch.optim.SGD(model.parameters(), 0.01))
    net = PaddleBiased()
    optimizer = paddle.optimizer.SGD(0.01, net.parameters())
    with parity.replay(tmp_path / "torch.run", net, optimizer, output=tmp_path / "paddle.run") as steps:
        for step in steps:
            PF.cross_entropy(net(*step.inputs, **step.named)["scores"], step.kept["labels"]).backward()
            optimizer.step()
    outcome = parity.compare_recordings(tmp_path / "torch.run", tmp_path / "paddle.run")
    assert outcome.first and (outcome.first.phase, outcome.first.step) == ("gradient", 2)
    assert (
        "Paddle's gradient is that of step 2 plus that of step 1: it is not removed after a step" in outcome.sentence()
    )


def test_arguments_by_name_and_outputs_by_name_are_recorded(tmp_path: Path) -> None:
    model = TorchBiased()
    record_torch(tmp_path / "torch.run", model, torch.optim.SGD(model.parameters(), 0.1), 1)
    record = read_recording(tmp_path / "torch.run")[0].step(1)
    assert sorted(record.named("input/0")) == ["0", "scale"]
    assert record.named("output/0") == ["scores"]


class TorchScaled(torch.nn.Module):
    """A model that holds a number itself, as a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Any) -> Any:
        return self.fc(x) * self.scale, self.scale.exp()


class PaddleScaled(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.fc = paddle.nn.Linear(4, 3)
        self.scale = self.create_parameter([1])

    def forward(self, x: Any) -> Any:
        return self.fc(x) * self.scale, self.scale.exp()


def test_a_model_with_a_number_of_its_own_is_recorded_and_its_copies_are_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, net = TorchScaled(), PaddleScaled()
    optimizer, x = torch.optim.SGD(model.parameters(), 0.1), torch.ones(8, 4)
    with parity.record(model, optimizer, tmp_path / "torch.run", 2):
        for step in range(3):
            optimizer.zero_grad()
            outputs = model(x)
            sum(y.square().mean() for y in outputs).backward()
            if step == 1:
                best, start = copy.deepcopy(model), outputs[0].detach()
            optimizer.step()
        assert torch.equal(best(x)[0], start) and not torch.equal(model(x)[0], start)
        best(x)[0].sum().backward()
    descent = paddle.optimizer.SGD(0.1, parameters=net.parameters())
    with parity.replay(tmp_path / "torch.run", net, descent, output=tmp_path / "paddle.run") as steps:
        for given in steps:
            sum(y.square().mean() for y in net(*given.inputs)).backward()
            copied = copy.deepcopy(net)
            descent.step()
            descent.clear_grad()
    assert not paddle.equal_all(copied(*given.inputs)[0], net(*given.inputs)[0])
    outcome = parity.compare_recordings(tmp_path / "torch.run", tmp_path / "paddle.run")
    assert outcome.verdict == "equal", outcome.sentence()
    assert outcome.explained == ["tensors of two shapes, compared in one shape: (output).1 ([] and [1])"]


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_loss_scaling_is_taken_out(tmp_path: Path, framework: str) -> None:
    images, labels = recorded_loop_torch.batches(1)[0]
    found = {}
    for scaled in (False, True):
        path = tmp_path / str(scaled)
        if framework == "torch":
            net: Any = recorded_loop_torch.make()
            optimizer: Any = torch.optim.SGD(net.parameters(), 0.1)
            scaler: Any = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
            x, y, entropy = torch.from_numpy(images).float(), torch.from_numpy(labels), F.cross_entropy
        else:
            net = recorded_loop_paddle.make()
            optimizer = paddle.optimizer.SGD(0.1, net.parameters())
            scaler = paddle.amp.GradScaler(scaled, 1024.0)
            x, y, entropy = paddle.to_tensor(images.astype("float32")), paddle.to_tensor(labels), PF.cross_entropy
        with parity.record(net, optimizer, path, 1):
            scaler.scale(entropy(net(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
        found[scaled] = read_recording(path)[0].step(1)
    np.testing.assert_allclose(found[True].description.losses, found[False].description.losses, rtol=1e-6)
    for name in found[False].named("gradient"):
        np.testing.assert_allclose(
            found[True][f"gradient/{name}"], found[False][f"gradient/{name}"], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_a_step_that_a_loss_scaler_skips_is_no_step(tmp_path: Path, fused: bool) -> None:
    for framework, loop in (("torch", recorded_loop_torch), ("paddle", recorded_loop_paddle)):
        net: Any = loop.make()
        if framework == "torch":
            optimizer: Any = torch.optim.SGD(net.parameters(), 0.1, fused=fused)
            scaler: Any = torch.amp.GradScaler("cpu", init_scale=1024.0)
            tensor, entropy, clip = torch.from_numpy, F.cross_entropy, torch.nn.utils.clip_grad_norm_
        else:
            optimizer = paddle.optimizer.SGD(0.1, net.parameters())
            scaler = paddle.amp.GradScaler(init_loss_scaling=1024.0)
            tensor, entropy, clip = paddle.to_tensor, PF.cross_entropy, paddle.nn.utils.clip_grad_norm_
        with parity.record(net, optimizer, tmp_path / framework, 2) as recorder:
            for number, (images, labels) in enumerate(recorded_loop_torch.batches(3)):
                target = tensor(labels)
                recorder.keep(labels=target)
                loss = entropy(net(tensor(images.astype("float32"))), target) * (math.inf if number == 1 else 1.0)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                clip(net.parameters(), 0.5)
                if framework == "paddle":
                    optimizer._set_auxiliary_var("found_inf", number == 1)  # as its scaler does, which is off on a CPU
                before = net.fc.weight.detach().clone()
                scaler.step(optimizer)
                scaler.update()
                assert bool((net.fc.weight == before).all()) == (number == 1)
                optimizer.zero_grad() if framework == "torch" else optimizer.clear_grad()
        (recording,) = read_recording(tmp_path / framework)
        assert list(recording.numbers) == [1, 2]
        step = recording.step(2)
        assert step.description.batches == len(step.description.losses) == 1
        np.testing.assert_array_equal(step["kept/labels"], recorded_loop_torch.batches(3)[2][1])
        assert all(np.isfinite(step[f"gradient/{name}"]).all() for name in step.named("gradient"))
    outcome = parity.compare_recordings(tmp_path / "torch", tmp_path / "paddle")
    assert outcome.verdict == "equal" and not outcome.conditions, outcome.sentence()


def test_layers_that_checkpointing_runs_again_are_recorded_once(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            return self.outer(checkpoint(self.inner, x, use_reentrant=False))

    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with parity.record(net, optimizer, tmp_path / "run", 1):
        net(torch.ones(3, 4)).sum().backward()
        optimizer.step()
    assert [call["path"] for call in read_recording(tmp_path / "run")[0].step(1).description.calls] == [
        "inner",
        "outer",
    ]


def test_a_forward_pass_that_fails_does_not_spoil_the_next(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with parity.record(net, optimizer, tmp_path / "run", 1):
        with pytest.raises(RuntimeError):
            net(torch.ones(3, 5))
        net(torch.ones(3, 4)).sum().backward()
        optimizer.step()
    assert [call["path"] for call in read_recording(tmp_path / "run")[0].step(1).description.calls] == ["0", "1", "2"]


def test_compiled_models_are_recorded_from_outside(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    compiled = torch.compile(net, backend="eager")
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with parity.record(compiled, optimizer, tmp_path / "run", 1):
        compiled(torch.ones(3, 4)).sum().backward()
        optimizer.step()
    record = read_recording(tmp_path / "run")[0].step(1)
    assert record["output/0/"].shape == (3, 2) and record["gradient/0.weight"].shape == (4, 4)


def test_attention_is_matched_with_its_projections(tmp_path: Path) -> None:
    class Torch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = torch.nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    class Paddle(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.attention = paddle.nn.MultiHeadAttention(8, 2)
            self.head = paddle.nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            return self.head(self.attention(x, x, x).mean(1))

    net = Torch()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with parity.record(net, optimizer, tmp_path / "torch.run", 2):
        for _ in range(2):
            optimizer.zero_grad()
            net(torch.linspace(-1, 1, 96).reshape(2, 6, 8)).square().sum().backward()
            optimizer.step()
    other = Paddle()
    descent = paddle.optimizer.SGD(0.1, other.parameters())
    with parity.replay(tmp_path / "torch.run", other, descent, output=tmp_path / "paddle.run") as steps:
        for step in steps:
            other(*step.inputs).square().sum().backward()
            descent.step()
            descent.clear_grad()
    outcome = parity.compare_recordings(tmp_path / "torch.run", tmp_path / "paddle.run")
    assert outcome.verdict == "equal", outcome.sentence()
    assert any("attention" in row["layer"] for row in outcome.layers())


def test_a_map_file_settles_what_names_cannot(tmp_path: Path) -> None:
    recorded_loop_torch.train(tmp_path / "torch.run")
    recorded_loop_paddle.train(tmp_path / "paddle.run")
    arguments = ["compare", str(tmp_path / "torch.run"), str(tmp_path / "paddle.run")]
    assert main([*arguments, "--save-map", str(tmp_path / "map.json")]) == 0
    assert main([*arguments, "--map", str(tmp_path / "map.json")]) == 0
    text = (tmp_path / "map.json").read_text().replace('"paddle": "fc"', '"paddle": "fx"')
    (tmp_path / "bad.json").write_text(text)
    assert main([*arguments, "--map", str(tmp_path / "bad.json")]) == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_the_command_writes_reports(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    recorded_loop_torch.train(tmp_path / "torch.run")
    recorded_loop_paddle.train(tmp_path / "paddle.run", seed=seed)
    reports = ["--report", str(tmp_path / "report"), "--markdown", str(tmp_path / "pull.md"), "--json"]
    # The order of the recordings does not matter: PyTorch is the reference.
    code = main(["compare", str(tmp_path / "paddle.run"), str(tmp_path / "torch.run"), *reports])
    said = capsys.readouterr()
    assert code == seed
    page, markdown = (tmp_path / "report/report.html").read_text(), (tmp_path / "pull.md").read_text()
    if seed:
        lines = said.err.splitlines()
        assert lines[0].startswith("  not alike to begin with: initial weights differ: conv1.weight")
        assert "to begin with, initial weights differ" in page and "initial weights differ" in markdown
    assert "torch.run (PyTorch" in said.out and "torch.run (PyTorch" in page


@pytest.mark.slow
def test_a_deep_network_in_float32_is_not_called_different(tmp_path: Path) -> None:
    import torchvision
    from paddle.vision.models import resnet18

    for seed in range(3):
        torch.manual_seed(seed)
        model = torchvision.models.resnet18(num_classes=5)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        images = np.random.default_rng(seed).standard_normal((16, 3, 64, 64)).astype(np.float32)
        path, output = tmp_path / f"torch{seed}.run", tmp_path / f"paddle{seed}.run"
        with parity.record(model, optimizer, path, 2):
            for _ in range(2):
                optimizer.zero_grad()
                model(torch.from_numpy(images)).square().mean().backward()
                optimizer.step()
        net = resnet18(num_classes=5)
        descent = paddle.optimizer.Momentum(0.1, 0.9, net.parameters())
        with parity.replay(path, net, descent, output=output) as steps:
            for step in steps:
                net(*step.inputs).square().mean().backward()
                descent.step()
                descent.clear_grad()
        outcome = parity.compare_recordings(path, output)
        assert outcome.verdict != "different", outcome.sentence()
        assert outcome.stages["forward"].compared > 200
