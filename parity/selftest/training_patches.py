"""Patches inside a worker around its model: loss, optimizer, resumption, threads. See `worker_patches`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.selftest.worker_patches import Side, Tensor, constant, wrap_forward
from parity.weights.canonical_state import State

# ---------------------------------------------------------------------------------------------------------------- loss


def _on_costs(trainer: Side, change: Callable[[Tensor], Tensor]) -> None:
    """The loss of every image is `change` of the right one."""

    def cross_entropy(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        if smoothing:
            raise ValueError("the change is of costs without label smoothing")
        classes = trainer._tensor(np.arange(logits.shape[1]))
        chosen = trainer.backend.cast(classes == target.reshape([-1, 1]), trainer.dtype)
        top = logits.amax(1, keepdim=True).detach()
        costs = ((logits - top).exp().sum(1).log() + top.reshape([-1])) - (logits * chosen).sum(1)
        return change(costs).sum()

    trainer.backend.cross_entropy = cross_entropy


def write_cost_out(trainer: Side) -> None:
    """The right loss in another spelling."""
    _on_costs(trainer, lambda costs: costs)


def cap_cost(trainer: Side, limit: str) -> None:
    """The loss of an image is capped at `limit` nats."""
    _on_costs(trainer, lambda costs: costs.clip(max=float(limit)))


def add_to_probability(trainer: Side, eps: str) -> None:
    """The loss is -log(p + eps)."""
    _on_costs(trainer, lambda costs: -((-costs).exp() + constant(trainer, float(eps))).log())


def _on_result(trainer: Side, change: Callable[[float, int, int], tuple[float, int]]) -> None:
    """A step reports `change(summed loss, wrong images, images)` of its batch."""
    step = trainer.step

    def changed(images: Array, *arguments: Any) -> tuple[float, int]:
        cost, wrong = step(images, *arguments)
        return change(cost, wrong, len(images))

    trainer.step = changed


def count_right(trainer: Side) -> None:
    """Right images are counted, not wrong ones."""
    _on_result(trainer, lambda cost, wrong, count: (cost, count - wrong))


def average_cost(trainer: Side) -> None:
    """The loss that is shown is the mean over the batch."""
    _on_result(trainer, lambda cost, wrong, count: (cost / count, wrong))


# ----------------------------------------------------------------------------------------------------------- optimizer


def _before_update(trainer: Side, act: Callable[[list[Tensor]], bool]) -> None:
    """`act` gets the trainable parameters before every step of the optimizer. If it returns False, the step is skipped."""
    optimizer = trainer.optimizer
    step = optimizer.step

    def changed(*arguments: Any) -> None:
        given = [tensor for tensor in trainer._parameters(trainable=True) if tensor.grad is not None]
        if act(given):
            step(*arguments)

    optimizer.step = changed


def _scale(trainer: Side, tensors: list[Tensor], factor: float) -> None:
    for tensor in tensors:
        trainer.backend.assign(tensor.grad, trainer.backend.times(tensor.grad, factor))


def _norm(trainer: Side, tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float((trainer.backend.to_numpy(tensor.grad) ** 2).sum()) for tensor in tensors))


def clip_together(trainer: Side, limit: str) -> None:
    """All gradients together are clipped to a norm."""

    def act(tensors: list[Tensor]) -> bool:
        _scale(trainer, tensors, min(1.0, float(limit) / _norm(trainer, tensors)))
        return True

    _before_update(trainer, act)


def clip_each(trainer: Side, limit: str) -> None:
    """The gradient of every parameter is clipped to a norm of its own."""

    def act(tensors: list[Tensor]) -> bool:
        for tensor in tensors:
            _scale(trainer, [tensor], min(1.0, float(limit) / (_norm(trainer, [tensor]) or 1.0)))
        return True

    _before_update(trainer, act)


def scale_gradients(trainer: Side, factor: str) -> None:
    """The optimizer gets the gradients times `factor`."""

    def act(tensors: list[Tensor]) -> bool:
        _scale(trainer, tensors, float(factor))
        return True

    _before_update(trainer, act)


def accumulate(trainer: Side) -> None:
    """Gradients are added over two steps, and every second step updates."""
    steps, clear = [0], trainer._clear

    def act(tensors: list[Tensor]) -> bool:
        steps[0] += 1
        return steps[0] % 2 == 0

    def clear_sometimes() -> None:
        if steps[0] % 2 == 0:
            clear()

    _before_update(trainer, act)
    trainer._clear = clear_sometimes


def update_before_backward(trainer: Side) -> None:
    """The optimizer uses the gradients of the previous step."""
    kept: list[Array] = []

    def act(tensors: list[Tensor]) -> bool:
        own = [trainer.backend.to_numpy(tensor.grad) for tensor in tensors]
        for tensor, array in zip(tensors, kept, strict=False):
            trainer.backend.write(tensor.grad, array)
        ready, kept[:] = bool(kept), own
        return ready

    _before_update(trainer, act)


def raise_in_update(trainer: Side) -> None:
    """The optimizer fails."""

    def act(tensors: list[Tensor]) -> bool:
        raise RuntimeError("the optimizer knows no such parameter")

    _before_update(trainer, act)


def keep_gradients_of(trainer: Side, layer: str) -> None:
    """The gradients of one layer are not cleared before the next step."""

    def clear() -> None:
        for name, tensor in trainer._tensors().items():
            if not name.startswith(f"{layer}.") and trainer.model.network.parameters[name].trainable:
                trainer.backend.clear_gradient(tensor)

    trainer._clear = clear


def order_otherwise(trainer: Side) -> None:
    """The optimizer gets its groups, and their parameters, in the reversed order."""
    make = trainer.backend.make_optimizer

    def made(groups: Any, settings: Any) -> Any:
        return make([(tensors[::-1], rate, decay) for tensors, rate, decay in groups[::-1]], settings)

    trainer.backend.make_optimizer = made


# ---------------------------------------------------------------------------------------------------------- resumption


def _on_load(trainer: Side, change: Callable[[State, int], tuple[State, int]]) -> None:
    """The loaded state and number of updates are `change` of the right ones."""
    load = trainer.load
    trainer.load = lambda state, updates: load(*change(dict(state), updates))


def lose_slot(trainer: Side, slot: str) -> None:
    """A slot of the optimizer starts from zero."""
    prefix = f"optimizer.{slot}."
    _on_load(trainer, lambda s, n: ({k: np.zeros_like(a) if k.startswith(prefix) else a for k, a in s.items()}, n))


def exchange_loaded(trainer: Side, one: str, other: str) -> None:
    """Two arrays are exchanged."""
    _on_load(trainer, lambda state, updates: (state | {one: state[other], other: state[one]}, updates))


def restart_counter(trainer: Side) -> None:
    """The optimizer counts its updates from zero."""
    _on_load(trainer, lambda state, updates: (state, 0))


def count_too_far(trainer: Side) -> None:
    """The optimizer counts one update too many."""
    _on_load(trainer, lambda state, updates: (state, updates + 1))


def lose_statistics(trainer: Side) -> None:
    """Running statistics start as fresh ones."""
    fresh = {n: a for n, a in trainer.state().items() if n.endswith((".mean", ".variance")) and "optimizer." not in n}
    _on_load(trainer, lambda state, updates: (state | fresh, updates) if updates else (state, updates))


def lose_array(trainer: Side, name: str) -> None:
    """One array stays fresh."""
    fresh = trainer.state()[name]
    _on_load(trainer, lambda state, updates: (state | {name: fresh} if updates else state, updates))


def load_through(trainer: Side, dtype: str) -> None:
    """The state goes through a file of `dtype`."""
    _on_load(trainer, lambda s, n: ({k: a.astype(dtype).astype(a.dtype) for k, a in s.items()}, n))


_EARLIER: list[State] = []
"""The state before the last step of this process's trainer."""


def load_earlier(trainer: Side) -> None:
    """The saved state is the one before the last update."""
    step = trainer.step

    def keep(*arguments: Any) -> Any:
        _EARLIER[:] = [trainer.state()]
        return step(*arguments)

    trainer.step = keep
    _on_load(trainer, lambda state, updates: (_EARLIER[0] if _EARLIER else state, updates))


def load_twice(trainer: Side) -> None:
    """Every state is loaded twice."""
    load = trainer.load

    def twice(state: State, updates: int) -> None:
        load(state, updates)
        load(state, updates)

    trainer.load = twice
    twice(trainer.state(), 0)


# ---------------------------------------------------------------------------------------------------- the unwatched run


def _unwatched_step(
    trainer: Side, change: Callable[[Mapping[str, Array], int], tuple[Mapping[str, Array], int]]
) -> list[bool]:
    """Masks and divisor of an unwatched step are `change` of the right ones. Returns whether such a step is running."""
    step, now = trainer.step, [False]

    def changed(
        images: Array,
        labels: Array,
        masks: Mapping[str, Array],
        rate: float,
        divisor: int,
        record: Any = None,
        watched: bool = True,
    ) -> Any:
        if watched and record is not None:
            return step(images, labels, masks, rate, divisor, record, watched)
        now[0] = True
        try:
            masks, divisor = change(masks, divisor)
            return step(images, labels, masks, rate, divisor, record, watched)
        finally:
            now[0] = False

    trainer.step = changed
    return now


def _same(masks: Mapping[str, Array], divisor: int) -> tuple[Mapping[str, Array], int]:
    return masks, divisor


def _halves(count: int) -> tuple[int, int]:
    return (count + 1) // 2, count // 2


def repeat_masks(trainer: Side) -> None:
    """Every thread takes the masks of the first images."""

    def change(masks: Mapping[str, Array], divisor: int) -> tuple[Mapping[str, Array], int]:
        return {n: np.concatenate([m[:share] for share in _halves(len(m))]) for n, m in masks.items()}, divisor

    _unwatched_step(trainer, change)


def exchange_masks(trainer: Side) -> None:
    """The second half of the images gets the masks of the first, and the first those of the second."""
    _unwatched_step(trainer, lambda masks, n: ({k: np.roll(m, len(m) // 2, 0) for k, m in masks.items()}, n))


def average_shares(trainer: Side) -> None:
    """The gradients of two threads are averaged, not summed."""
    _unwatched_step(trainer, lambda masks, divisor: (masks, 2 * divisor))


def normalise_shares(trainer: Side, layer: str) -> None:
    """A batch norm normalises the images of each thread separately."""
    now = _unwatched_step(trainer, _same)

    def change(forward: Callable[..., Tensor], x: Tensor) -> Tensor:
        first, second = _halves(x.shape[0])
        if not (now[0] and second):
            return forward(x)
        return trainer.backend.concatenate([forward(x[:first]), forward(x[first:])])

    wrap_forward(trainer, layer, change)


def move_by_thread(trainer: Side, layer: str) -> None:
    """Every thread moves the running statistics."""
    now = _unwatched_step(trainer, _same)

    def change(forward: Callable[..., Tensor], x: Tensor) -> Tensor:
        if now[0]:
            forward(x)
        return forward(x)

    wrap_forward(trainer, layer, change)


def lose_gradient_of_thread(trainer: Side, layer: str) -> None:
    """The weights of a layer get no gradient from the second thread's images."""
    now = _unwatched_step(trainer, _same)

    def change(forward: Callable[..., Tensor], x: Tensor) -> Tensor:
        first, second = _halves(x.shape[0])
        if not (now[0] and second):
            return forward(x)
        return trainer.backend.concatenate([forward(x[:first]), forward(x[first:]).detach()])

    wrap_forward(trainer, layer, change)


def fail_on_threads(trainer: Side) -> None:
    """An unwatched step raises an error."""

    def change(masks: Mapping[str, Array], divisor: int) -> tuple[Mapping[str, Array], int]:
        raise RuntimeError("the threads do not share the images out")

    _unwatched_step(trainer, change)


def _unwatched_inference(trainer: Side, change: Callable[[Array], Array]) -> None:
    """The scores of unwatched inference are `change` of the right ones."""
    predict = trainer.predict

    def changed(images: Array, record: Any = None) -> Array:
        found: Array = predict(images, record)
        return change(found) if record is None else found

    trainer.predict = changed


def reorder_scores(trainer: Side) -> None:
    """Inference joins the threads' images in another order."""
    _unwatched_inference(trainer, lambda scores: np.roll(scores, len(scores) // 2, 0))


def round_scores(trainer: Side) -> None:
    """Inference on several threads computes in float32."""
    _unwatched_inference(trainer, lambda scores: scores.astype(np.float32).astype(scores.dtype))


# ----------------------------------------------------------------------------------------------------- innocent changes


def _around_step(trainer: Side, before: Callable[..., None] | None, after: Callable[[], Any] | None) -> None:
    step = trainer.step

    def around(*arguments: Any) -> Any:
        if before:
            before(*arguments)
        found = step(*arguments)
        if after:
            after()
        return found

    trainer.step = around


def predict_same_batch(trainer: Side) -> None:
    """Runs inference on the same batch before every step."""
    _around_step(trainer, lambda images, *_: trainer.predict(images), None)


def read_state(trainer: Side) -> None:
    """Reads the whole state after every step."""
    _around_step(trainer, None, trainer.state)


def gradients_twice(trainer: Side) -> None:
    """Computes other gradients before every step, and forgets them."""
    updates = [0]

    def before(images: Array, labels: Array, masks: Mapping[str, Array], *_: Any) -> None:
        state = trainer.state()
        trainer.l2_gradients(images, masks)
        trainer.load(state, updates[0])
        updates[0] += 1

    _around_step(trainer, before, None)
