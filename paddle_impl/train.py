"""One training step, and inference, in Paddle. The loop around them is `parity.training.loop`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from paddle_impl import checkpoint, distributed, runtime
from paddle_impl.layers import times
from paddle_impl.model import Model, build, export_array, get_weights, set_weights, tensors, to_numpy
from parity.errors import InputError
from parity.network.network import Network
from parity.process_group import SINGLE_PROCESS, ProcessGroup
from parity.recipe import muon, precision
from parity.recipe.optimizer import Group, Optimizer
from parity.weights.canonical_state import State


class Trainer:
    """A model and its optimizer on one device. Arrays go in and come out as numpy; `parity.backend.protocol.Trainer` describes the
    methods."""

    def __init__(
        self,
        network: Network,
        settings: Optimizer,
        state: State | int = 0,
        dtype: str = "float32",
        device: str = "cpu",
        process_group: ProcessGroup = SINGLE_PROCESS,
        amp: str = "off",
    ) -> None:
        precision.check(amp, settings)
        self.settings, self.dtype, self.device, self.place = settings, dtype, device, runtime.place(device)
        self.model = build(network, state, dtype)
        self.process_group, self.amp, self.scaler = process_group, amp, runtime.scaler(amp, device)
        self.wrapped = distributed.wrap(self.model, device) if process_group.size > 1 else self.model

    @cached_property
    def optimizer(self) -> paddle.optimizer.Optimizer:
        """The optimizer, made when training first asks for it: a network without parameters has none, but predicts."""
        return make_optimizer(self.model, self.settings)

    @cached_property
    def kernels(self) -> dict[str, Group]:
        """The parameters that Muon updates, and not `optimizer`, which only keeps their velocities among its slots."""
        return self.settings.by_muon(self.model.network)

    def step(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        masks: Mapping[str, np.ndarray],
        rate: float,
        divisor: int,
        record: dict[str, np.ndarray] | None = None,
    ) -> tuple[float, int]:
        """One update: forward, backward of sum(cross-entropy) / `divisor`, optimizer at `rate`.

        The cross-entropy of auxiliary heads enters what is differentiated, and `loss`, by its weight. Returns the summed
        cross-entropy of the network itself, of labels as they are, and the number of wrong images. `record` receives the activations
        (`forward/LAYER`), their gradients (`backward/LAYER`; none before the first parameter), the parameters' gradients
        (`gradient/PARAMETER`) and `loss`. Of several processes each gives and gets its own images' part of all this, but gradients are
        summed and statistics averaged over all.
        """
        optimizer = self.optimizer  # asked for first: where there is nothing to train, it says so
        model, outputs, gradients = self.model, {}, {}
        heads = model.network.heads
        model.train()

        def watch(layer: str, output: Tensor) -> None:
            if record is not None and not output.stop_gradient:
                # DIFFERS: a retained gradient may share its memory with one that others are yet added to.
                output.register_hook(lambda gradient: gradients.update({layer: to_numpy(gradient)}))
            if record is not None or layer in heads:
                outputs[layer] = output

        given = {layer: self._tensor(mask) for layer, mask in masks.items()}
        with runtime.autocast(self.amp, self.device):
            # DIFFERS: layers that nobody watches go through the threads together.
            logits = self.wrapped(self._images(images), given, watch if heads or record is not None else None)
        scores = {head: outputs[head] for head in heads}
        if self.amp != "off":
            logits = logits.astype(self.dtype)
            scores = {head: output.astype(self.dtype) for head, output in scores.items()}
        target = self._tensor(labels)
        cost = cross_entropy(logits, target, self.settings.label_smoothing)
        loss = times(cost, 1 / divisor)
        for head, weight in heads.items():
            loss = loss + times(cross_entropy(scores[head], target, self.settings.label_smoothing), weight / divisor)
        self._clear()
        self.scaler.scale(loss).backward()
        parameters = tensors(model)
        if self.process_group.size > 1:
            distributed.sum_gradients(self.wrapped, self._parameters(trainable=True))
        if record is not None:
            record["loss"] = to_numpy(loss)
            for layer in list(outputs):
                output = outputs.pop(layer)  # which makes room: of a large network these are gigabytes
                record[f"forward/{layer}"] = to_numpy(output)
                if layer in gradients:
                    record[f"backward/{layer}"] = gradients[layer]
            record.update(self._gradients())
        for name in model.network.zero_gradients:
            parameters[name].clear_gradient(set_to_zero=True)
        self._update_kernels(rate)
        optimizer.set_lr(rate)
        self.scaler.step(optimizer)
        self.scaler.update()
        if self.process_group.size > 1:
            distributed.average_statistics(self._parameters(trainable=False), len(labels))
        wrong = int((logits.argmax(1) != target).sum())
        if self.settings.label_smoothing:
            cost = cross_entropy(logits.detach(), target)
        return cost.item(), wrong

    def predict(self, images: np.ndarray, record: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """Inference: logits [N,classes]. `record` receives the activations (`eval/LAYER`)."""
        model = self.model
        model.eval()

        def watch(layer: str, output: Tensor) -> None:
            assert record is not None
            record[f"eval/{layer}"] = to_numpy(output)

        with paddle.no_grad():
            return to_numpy(model(self._images(images), None, None if record is None else watch))

    def l2_gradients(
        self, images: np.ndarray, masks: Mapping[str, np.ndarray], record: dict[str, np.ndarray] | None = None
    ) -> float:
        """Forward in training and backward of sum(logits ** 2) / 2, TensorFlow's `l2_loss`, without an update; returns that sum.

        Dropout masks are drawn by Paddle where none are given. `record` receives the parameters' gradients (`gradient/PARAMETER`).
        """
        self.model.train()
        given = {layer: self._tensor(mask) for layer, mask in masks.items()}
        logits = self.model(self._images(images), given)
        loss = times((logits * logits).sum(), 0.5)
        self._clear()
        loss.backward()
        if record is not None:
            record.update(self._gradients())
        return loss.item()

    def isolate(
        self, layer: str, x: np.ndarray, inference: np.ndarray, mask: np.ndarray | None, gradient: np.ndarray
    ) -> dict[str, np.ndarray]:
        """One layer alone, on the training input `x` with the `gradient` of its output, and on the `inference` input.

        Returns `eval/LAYER`, `forward/LAYER`, `backward/LAYER` (of its input), `gradient/PARAMETER`,
        and `update/STATISTIC` as training moves it.
        """
        model, module = self.model, getattr(self.model, layer)
        model.eval()
        with paddle.no_grad():
            record = {f"eval/{layer}": to_numpy(module(self._images(inference)))}
        model.train()
        self._clear()
        given = self._images(x)
        given.stop_gradient = False
        output = module(given) if mask is None else module(given, self._tensor(mask))
        output.backward(self._images(gradient))
        record |= {
            f"forward/{layer}": to_numpy(output),
            f"backward/{layer}": to_numpy(given.grad),
        }
        for name, tensor in tensors(model).items():
            if name.startswith(f"{layer}."):
                moved = tensor.grad is None
                value = export_array(model, name, tensor if moved else tensor.grad)
                record[f"{'update' if moved else 'gradient'}/{name}"] = value
        return record

    def scale_velocity(self, factor: float) -> None:
        """Multiplies the momentum buffers by `factor`."""
        with paddle.no_grad():
            for _, tensor in checkpoint.slots(self.model, self.optimizer, self.settings).values():
                paddle.assign(times(tensor, factor), tensor)

    def state(self) -> State:
        """Parameters, statistics and optimizer slots, canonical."""
        return get_weights(self.model) | checkpoint.get_slots(self.model, self.optimizer, self.settings)

    def load(self, state: State, updates: int) -> None:
        """Takes over a canonical `state` (`state()` of either side) reached after `updates` updates."""
        weights = {name: state[name] for name in self.model.network.parameters if name in state}
        set_weights(self.model, weights)
        checkpoint.set_slots(self.model, self.optimizer, self.settings, state, updates)

    def total(self, *values: float) -> list[float]:
        """Sums of `values` over all processes."""
        return distributed.total(values, self.place) if self.process_group.size > 1 else list(values)

    def _update_kernels(self, rate: float) -> None:
        """Muon's part of the update, at the learning rate `rate`."""
        if not self.kernels:
            return
        parameters, held = tensors(self.model), checkpoint.slots(self.model, self.optimizer, self.settings)
        with paddle.no_grad():
            for name, group in self.kernels.items():
                weight, velocity = parameters[name], held[f"optimizer.velocity.{name}"][1]
                moved, carried = muon.updated(weight, weight.grad, velocity, group, rate, times)
                paddle.assign(moved, weight)
                paddle.assign(carried, velocity)

    def _clear(self) -> None:
        """Takes the parameters' gradients away."""
        for parameter in self._parameters(trainable=True):
            parameter.clear_gradient(set_to_zero=False)

    def _gradients(self) -> dict[str, np.ndarray]:
        """The parameters' gradients, canonical, as `gradient/PARAMETER`."""
        return {
            f"gradient/{name}": export_array(self.model, name, parameter.grad)
            for name, parameter in tensors(self.model).items()
            if parameter.grad is not None
        }

    def _parameters(self, trainable: bool) -> list[Tensor]:
        """The trainable parameters, or else the running statistics."""
        kinds = self.model.network.parameters
        return [tensor for name, tensor in tensors(self.model).items() if kinds[name].trainable == trainable]

    def _tensor(self, array: np.ndarray) -> Tensor:
        return paddle.to_tensor(array, place=self.place)

    def _images(self, images: np.ndarray) -> Tensor:
        return self._tensor(images.astype(self.dtype, copy=False))


def cross_entropy(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """The cross-entropy of class scores [N,classes] and labels [N], summed over the images.

    Of labels that are smoothed: a share `smoothing` of each is spread over all classes (Szegedy et al. 2016, section 7).
    """
    # DIFFERS: the function of this name counts at most 64 nats an image.
    right = paddle.index_sample(logits, target.unsqueeze(1)).squeeze(1)
    if smoothing:
        right = times(right, 1 - smoothing) + times(logits.sum(1), smoothing / logits.shape[1])
    return (paddle.logsumexp(logits, 1) - right).sum()


def make_optimizer(model: Model, settings: Optimizer) -> paddle.optimizer.Optimizer:
    """Paddle's optimizer for `settings` over every trainable parameter; `InputError` where there is none."""
    parameters = tensors(model)
    named = settings.grouped(model.network)
    groups = [([parameters[name] for name in names], rate, decay) for names, rate, decay in named]
    if not groups:
        raise InputError(f"network {model.network.name} has no parameters, so there is nothing to train")
    return optimizer_of(groups, settings)


def optimizer_of(groups: list[tuple[list[Tensor], float, float]], settings: Optimizer) -> paddle.optimizer.Optimizer:
    """Paddle's optimizer for `settings` over `groups`: parameters, factor of the learning rate, and weight decay of each."""
    given: list[dict[str, Any]] = [
        {"params": parameters, "learning_rate": rate, "weight_decay": decay} for parameters, rate, decay in groups
    ]
    if settings.kind == "adam":
        return paddle.optimizer.Adam(settings.rate, settings.beta1, settings.beta2, settings.eps, given)
    return paddle.optimizer.Momentum(settings.rate, settings.momentum, given, settings.nesterov)
