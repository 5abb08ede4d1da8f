"""Faults of the unwatched run: layers run together, and threads share the images."""

from __future__ import annotations

from parity.compare.verdicts import UNWATCHED
from parity.selftest import changes as c
from parity.selftest.fault import Fault

IN_UNWATCHED = "in the unwatched run"


def _training(name: str, sentence: str, change: c.Change, layer: str, cause: str = IN_UNWATCHED) -> Fault:
    return Fault(name, "threads", sentence, change, "update", UNWATCHED["update"], layer, cause)


def _inference(name: str, sentence: str, change: c.Change) -> Fault:
    return Fault(name, "threads", sentence, change, "eval", UNWATCHED["eval"], "fc3", IN_UNWATCHED)


THREADS = (
    _training("threads_take_first_masks", "every thread takes the masks of the first images",
        c.patch("repeat_masks"), "conv1"),
    _training("threads_exchange_masks", "two threads take each other's masks", c.patch("exchange_masks"), "conv1"),
    _training("threads_average_gradients", "the gradients of threads are averaged, not summed",
        c.patch("average_shares"), "conv1"),
    _training("threads_lose_gradient", "the images of the second thread give a layer no gradient",
        c.patch("lose_gradient_of_thread", "conv3"), "conv1"),
    _training("threads_normalise_shares", "a batch norm normalises the images of each thread separately",
        c.patch("normalise_shares", "bn3"), "conv1"),
    _training("threads_move_statistics", "every thread moves the running statistics",
        c.patch("move_by_thread", "bn3"), "bn3"),
    _training("threads_fail", "a step on several threads raises an error",
        c.patch("fail_on_threads"), "conv1", "fails"),
    _inference("threads_reorder_scores", "inference on threads returns images in another order", c.patch("reorder_scores")),
    _inference("threads_round_scores", "inference on threads computes in float32", c.patch("round_scores")),
)  # fmt: skip
