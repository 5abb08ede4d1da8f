"""The training step and inference, for any framework. The loop around them is `parity.training.loop`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from parity.arrays import Array
from parity.backend import distributed, model_state
from parity.backend.protocol import Backend, Module, Stepper, Tensor
from parity.errors import InputError
from parity.network.network import Network
from parity.process_group import SINGLE_PROCESS, ProcessGroup
from parity.recipe import muon, precision
from parity.recipe.optimizer import Group, Optimizer
from parity.weights.canonical_state import State


class Trainer:
    """A model and its optimizer in the framework of `backend`, on one device. Arrays go in and come out as numpy.

    `state` is a canonical state, or the seed of fresh weights. In mixed precision `amp`, weights, running statistics, losses and
    optimizer keep their `dtype`. `layout` is one of `parity.recipe.precision.LAYOUTS` (None: `Backend.layout`). `InputError` if the state
    does not fit the network, or `amp` the optimizer.
    """

    def __init__(
        self,
        backend: Backend,
        network: Network,
        settings: Optimizer,
        state: State | int = 0,
        dtype: str = "float32",
        device: str = "cpu",
        process_group: ProcessGroup = SINGLE_PROCESS,
        amp: str = "off",
        layout: str | None = None,
    ) -> None:
        precision.check(amp, settings)
        self.backend, self.settings, self.dtype, self.device = backend, settings, dtype, device
        self.layout = layout or backend.layout(dtype, device, amp)
        self.model: Module = backend.to_device(model_state.build(backend, network, state, dtype), device, self.layout)
        self.process_group, self.amp, self.scaler = process_group, amp, backend.scaler(amp, device)
        overlaps = process_group.size > 1 and device in backend.OVERLAPPING
        self.wrapped: Module = backend.wrap(self.model) if overlaps else self.model

    @cached_property
    def optimizer(self) -> Stepper:
        """The optimizer, made at the first training step: a network without parameters has none, but can predict."""
        parameters, network = self._tensors(), self.model.network
        named = self.settings.grouped(network)
        groups = [([parameters[name] for name in names], rate, decay) for names, rate, decay in named]
        if not groups:
            raise InputError(f"network {network.name} has no parameters, so there is nothing to train")
        return self.backend.make_optimizer(groups, self.settings)

    @cached_property
    def kernels(self) -> dict[str, Group]:
        """The parameters that Muon updates instead of `optimizer`, which only keeps their velocities among its slots."""
        return self.settings.by_muon(self.model.network)

    def step(
        self,
        images: Array,
        labels: Array,
        masks: Mapping[str, Array],
        rate: float,
        divisor: int,
        record: dict[str, Array] | None = None,
        watched: bool = True,
    ) -> tuple[float, int]:
        """Do one update: forward, backward of sum(cross-entropy) / `divisor`, optimizer step at the learning rate `rate`.

        Return the summed cross-entropy of the main head with unsmoothed labels, and the number of wrong images. The loss also holds the
        cross-entropy of each auxiliary head, times the head's weight.

        `record` receives `forward/LAYER` (activations), `backward/LAYER` (their gradients; none before the first parameter), `loss` and
        `gradient/PARAMETER`. Each is recorded as soon as it is computed, so that after an error `record` holds what came before. If the
        step is not `watched`, `record` receives no activations, and layers run as in training: together where they can.

        With several processes, images and results are those of this process, but gradients are summed and statistics averaged over all.
        """
        optimizer = self.optimizer  # first, because it raises an error if there is nothing to train
        backend, model = self.backend, self.model
        heads, scores = model.network.heads, dict[str, Tensor]()
        watched = watched and record is not None
        model.train()

        def watch(layer: str, output: Tensor) -> None:
            if record is not None and watched:
                # Copied at once: a later layer may change an output in place, and the memory of a retained gradient may be shared with
                # one to which other gradients are still added.
                record[f"forward/{layer}"] = backend.to_numpy(output)
                if backend.needs_gradient(output):
                    backend.on_gradient(output, lambda g: record.update({f"backward/{layer}": backend.to_numpy(g)}))
            if layer in heads:
                scores[layer] = output

        mask_tensors = {layer: self._tensor(mask) for layer, mask in masks.items()}
        with backend.autocast(self.amp, self.device):
            # Without a `watch`, layers may run together, which is faster.
            logits = self.wrapped(self._images(images), mask_tensors, watch if heads or watched else None)
        if self.amp != "off":
            logits = backend.cast(logits, self.dtype)
            scores = {head: backend.cast(output, self.dtype) for head, output in scores.items()}
        target, smoothing = self._tensor(labels), self.settings.label_smoothing
        cross_entropy = backend.cross_entropy(logits, target, smoothing)
        loss = backend.times(cross_entropy, 1 / divisor)
        for head, weight in heads.items():
            loss = loss + backend.times(backend.cross_entropy(scores[head], target, smoothing), weight / divisor)
        if record is not None:
            record["loss"] = backend.to_numpy(loss)
        self._clear()
        self.scaler.scale(loss).backward()
        if self.process_group.size > 1:
            averaged_over = 0 if self.wrapped is model else self.process_group.size
            distributed.sum_gradients(backend, self._parameters(trainable=True), averaged_over)
        if record is not None:
            record.update(self._gradients())
        parameters = self._tensors()
        for name in model.network.zero_gradients:
            if parameters[name].grad is not None:  # the layer may not use it, which the record shows
                backend.zero_gradient(parameters[name])
        self._update_kernels(rate)
        backend.set_rate(optimizer, rate)
        self.scaler.step(optimizer)
        self.scaler.update()
        if self.process_group.size > 1:
            distributed.average_statistics(backend, self._parameters(trainable=False), len(labels), self.device)
        wrong = int((logits.argmax(1) != target).sum())
        if smoothing:
            cross_entropy = backend.cross_entropy(logits.detach(), target)
        return cross_entropy.item(), wrong

    def predict(self, images: Array, record: dict[str, Array] | None = None) -> Array:
        """The logits [N,classes] of inference, in mixed precision if training is. `record` receives the activations (`eval/LAYER`)."""
        self.model.eval()

        def watch(layer: str, output: Tensor) -> None:
            assert record is not None
            record[f"eval/{layer}"] = self.backend.to_numpy(output)

        with self.backend.no_grad(), self.backend.autocast(self.amp, self.device):
            logits = self.model(self._images(images), None, None if record is None else watch)
        return self.backend.to_numpy(logits)

    def l2_gradients(self, images: Array, masks: Mapping[str, Array], record: dict[str, Array] | None = None) -> float:
        """Compute the gradients of sum(logits ** 2) / 2 (TensorFlow's `l2_loss`) in training mode, without an update; return that value.

        The framework draws dropout masks that are not in `masks`. `record` receives the parameters' gradients (`gradient/PARAMETER`).
        """
        self.model.train()
        logits = self.model(self._images(images), {layer: self._tensor(mask) for layer, mask in masks.items()})
        loss = self.backend.times((logits * logits).sum(), 0.5)
        self._clear()
        loss.backward()
        if record is not None:
            record.update(self._gradients())
        value: float = loss.item()
        return value

    def isolate(
        self, layer: str, inputs: Sequence[Array], inference: Sequence[Array], mask: Array | None, gradient: Array
    ) -> dict[str, Array]:
        """Run one layer alone: in training on `inputs`, backward from the `gradient` of its output, and in inference on `inference`.

        Both have one array for each source of the layer. Return `eval/LAYER`, `forward/LAYER`, `backward/LAYER.PLACE` (the gradient of
        each input, counted from 0), `gradient/PARAMETER`, and `update/STATISTIC` (running statistics after the step).
        """
        backend, model, module = self.backend, self.model, getattr(self.model, layer)
        model.eval()
        with backend.no_grad(), backend.autocast(self.amp, self.device):
            record = {f"eval/{layer}": backend.to_numpy(module(*map(self._images, inference)))}
        model.train()
        self._clear()
        leaves = [self._images(x) for x in inputs]
        for leaf in leaves:
            backend.require_gradient(leaf, True)
        copies = [backend.times(leaf, 1.0) for leaf in leaves]  # a layer may change its input in place
        with backend.autocast(self.amp, self.device):
            output = module(*copies) if mask is None else module(*copies, self._tensor(mask))
        backend.cast(output, self.dtype).backward(self._images(gradient))
        record[f"forward/{layer}"] = backend.to_numpy(output)
        record |= {f"backward/{layer}.{place}": backend.to_numpy(leaf.grad) for place, leaf in enumerate(leaves)}
        for name, tensor in self._tensors().items():
            if name.startswith(f"{layer}."):
                moved = tensor.grad is None
                value = model_state.export_array(backend, model, name, tensor if moved else tensor.grad)
                record[f"{'update' if moved else 'gradient'}/{name}"] = value
        return record

    def scale_velocity(self, factor: float) -> None:
        """Multiply the momentum buffers by `factor`."""
        with self.backend.no_grad():
            for _, tensor in self._slots().values():
                self.backend.assign(tensor, self.backend.times(tensor, factor))

    def state(self) -> State:
        """The canonical state: parameters, statistics and optimizer slots."""
        slots = model_state.get_slots(self.backend, self.model, self.optimizer, self.settings)
        return model_state.get_weights(self.backend, self.model) | slots

    def load(self, state: State, updates: int) -> None:
        """Load a canonical `state` (from `state()` of either framework) that was reached after `updates` updates."""
        weights = {name: state[name] for name in self.model.network.parameters if name in state}
        model_state.set_weights(self.backend, self.model, weights)
        model_state.set_slots(self.backend, self.model, self.optimizer, self.settings, state, updates)

    def total(self, *values: float) -> list[float]:
        """The sums of `values` over all processes of the run; with one process, the values as they are."""
        if self.process_group.size == 1:
            return list(values)
        return distributed.sum_values(self.backend, values, self.device)

    def _update_kernels(self, rate: float) -> None:
        """Muon's part of the update, at the learning rate `rate`."""
        if not self.kernels:
            return
        backend, parameters, slots = self.backend, self._tensors(), self._slots()
        with backend.no_grad():
            for name, group in self.kernels.items():
                weight, velocity = parameters[name], slots[f"optimizer.velocity.{name}"][1]
                moved, carried = muon.updated(weight, weight.grad, velocity, group, rate, backend.times)
                backend.assign(weight, moved)
                backend.assign(velocity, carried)

    def _clear(self) -> None:
        """Remove the parameters' gradients."""
        for parameter in self._parameters(trainable=True):
            self.backend.clear_gradient(parameter)

    def _gradients(self) -> dict[str, Array]:
        """The parameters' gradients in canonical layout, as `gradient/PARAMETER`."""
        return {
            f"gradient/{name}": model_state.export_array(self.backend, self.model, name, parameter.grad)
            for name, parameter in self._tensors().items()
            if parameter.grad is not None
        }

    def _tensors(self) -> dict[str, Tensor]:
        return model_state.get_tensors(self.backend, self.model)

    def _slots(self) -> dict[str, tuple[str, Tensor]]:
        return model_state.slot_tensors(self.backend, self.model, self.optimizer, self.settings)

    def _parameters(self, trainable: bool) -> list[Tensor]:
        """The trainable parameters, or else the running statistics."""
        kinds = self.model.network.parameters
        return [tensor for name, tensor in self._tensors().items() if kinds[name].trainable == trainable]

    def _tensor(self, array: Array) -> Tensor:
        return self.backend.from_numpy(array, self.device)

    def _images(self, images: Array) -> Tensor:
        return self.backend.to_layout(self._tensor(images.astype(self.dtype, copy=False)), self.layout)
