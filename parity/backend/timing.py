"""Times steps of training and inference inside a worker process."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np

from parity.arrays import Array
from parity.backend.protocol import Module, Tensor, TrainerLike
from parity.backend.trainer import Trainer
from parity.data.batches import Batches, preprocess
from parity.data.random_streams import masks, stream
from parity.network.graph import needing_input_gradients
from parity.network.network import Network
from parity.network.nodes import Conv, Linear, Shape
from parity.recipe import precision
from parity.recipe.recipe import Recipe


class Bench:
    """Times a `trainer` that trains `network` by `recipe` on batches of uint8 `images` [N,C,H,W] with `labels`.

    `wait` returns when the device has finished its queued work. It is called before the clock starts and before it is read.
    """

    def __init__(
        self,
        trainer: TrainerLike,
        network: Network,
        recipe: Recipe,
        images: Array,
        labels: Array,
        wait: Callable[[], None] = lambda: None,
        seed: int = 0,
    ) -> None:
        self.trainer, self.network, self.recipe, self.wait, self.seed = trainer, network, recipe, wait, seed
        self.update = 0
        batches = Batches(images, labels, recipe.batch_size, recipe.augmentation, seed)
        self._batches = (batch for epoch in itertools.count() for batch in batches.epoch(epoch))
        self._first = self._next_step_input()

    def _next_step_input(self) -> tuple[Array, Array, dict[str, Array]]:
        images, labels = next(self._batches)
        self.update += 1
        dropped = masks(self.seed, self.update, range(len(labels)), self.network.dropouts)
        return preprocess(images, self.recipe.preprocessing), labels, dropped

    def train(self, steps: int, fed: bool) -> float:
        """Images/s of `steps` updates: on one batch made before, or, if `fed`, including the making of batches and dropout masks."""
        images = 0
        self.wait()
        started = time.perf_counter()
        for _ in range(steps):
            pixels, labels, dropped = self._next_step_input() if fed else self._first
            self.trainer.step(
                pixels, labels, dropped, self.recipe.optimizer.rate, self.recipe.loss_divisor(len(labels))
            )
            images += len(labels)
        self.wait()
        return images / (time.perf_counter() - started)

    def infer(self, steps: int, count: int) -> float:
        """Images/s of `steps` predictions of `count` images."""
        images = np.resize(self._first[0], (count, *self.network.input_shape))
        self.wait()
        started = time.perf_counter()
        for _ in range(steps):
            self.trainer.predict(images)
        self.wait()
        return steps * count / (time.perf_counter() - started)


class LayersAlone:
    """Times the convolutions and linear layers of the `trainer`'s model one by one, on `count` images each.

    No training step can be faster with these layers. Inputs and gradients of outputs have the real shapes, dtype and layout. In mixed
    precision, the weights have its dtype, too, so that nothing is cast. `wait` is as in `Bench`.
    """

    def __init__(self, trainer: Trainer, count: int, wait: Callable[[], None] = lambda: None) -> None:
        self.trainer, self.count, self.wait = trainer, count, wait
        self.dtype = precision.DTYPES.get(trainer.amp, trainer.dtype)

    @cached_property
    def _model(self) -> Module:
        backend, model = self.trainer.backend, self.trainer.model
        return model if self.dtype == self.trainer.dtype else backend.convert(backend.copy_model(model), self.dtype)

    def train(self, steps: int) -> float:
        """Images/s of `steps` forward and backward passes. They compute the gradients that training needs, and no others."""
        layers = self.trainer.model.network.layers
        inner, seconds = needing_input_gradients(layers), 0.0
        self._model.train()
        for name, layer in layers.items():
            if isinstance(layer.node, Conv | Linear):
                image, gradient = self._random(layer.input), self._random(layer.output)
                self.trainer.backend.require_gradient(image, name in inner)
                seconds += self._seconds(name, image, gradient, steps)
        return steps * self.count / seconds

    def _random(self, shape: Shape) -> Tensor:
        """Random images of `shape`, all equal."""
        backend, image = self.trainer.backend, stream(0, "timed images").random(shape, np.float32)
        tensor = backend.from_numpy(np.resize(image, (self.count, *shape)), self.trainer.device)
        return backend.to_layout(backend.cast(tensor, self.dtype), self.trainer.layout)

    def _seconds(self, name: str, image: Tensor, gradient: Tensor, steps: int) -> float:
        """The seconds of `steps` passes of the layer `name`."""
        backend, module = self.trainer.backend, getattr(self._model, name)
        own = [tensor for _, tensor in backend.own_tensors(module)]
        self.wait()
        started = time.perf_counter()
        for _ in range(steps):
            output = module(image)
            if backend.needs_gradient(output):
                backend.backward([output], [gradient])
            for tensor in (image, *own):
                backend.clear_gradient(tensor)
        self.wait()
        return time.perf_counter() - started


def time_steps(trainers: Mapping[str, TrainerLike], network: Network, count: int, steps: int) -> dict[str, float]:
    """Seconds of the fastest of `steps` updates of each of the `trainers` of `network`, on `count` random images.

    They take turns. A first update, which allocates and compiles, does not count. The learning rate is 0.
    """
    images = stream(0, "timed images").random((count, *network.input_shape), np.float32)
    labels, seconds = np.zeros(count, np.int64), dict.fromkeys(trainers, math.inf)
    for number in range(steps + 1):
        for name, trainer in trainers.items():
            started = time.perf_counter()
            trainer.step(images, labels, {}, 0.0, count)
            seconds[name] = min(seconds[name], time.perf_counter() - started) if number else math.inf
    return seconds
