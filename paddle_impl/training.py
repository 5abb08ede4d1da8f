"""The training of two small models as a user of Paddle writes it: loss, optimizer, clipping and schedule.

`parity.selftest.of_programs` plants mistakes in it, and compares it with its twin of the other framework.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_impl import model as models
from parity.network import articles

RATE = 1e-3
"""Learning rate of the first steps."""


def make_network() -> nn.Layer:
    """Return a small network of convolutions and linear layers, for images [N, 1, 28, 28]."""
    return models.Model(articles.get_network("mnist_cnn"))


def token_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of scores [batch, length, words]; labels [batch, length] of -100 are ignored."""
    flat = scores.reshape([-1, scores.shape[-1]])
    return F.cross_entropy(flat, labels.reshape([-1]), ignore_index=-100)


def image_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of log-probabilities [batch, classes] and labels [batch]."""
    return F.cross_entropy(scores, labels, label_smoothing=0.1)


class Training:
    """AdamW with weight decay on kernels only, clipping by the norm of all gradients, and a schedule."""

    def __init__(self, model: nn.Layer) -> None:
        self.parameters = list(model.parameters())
        decayed = {parameter.name for parameter in self.parameters if parameter.ndim > 1}
        self.schedule = paddle.optimizer.lr.StepDecay(RATE, step_size=2, gamma=0.5)
        self.optimizer = paddle.optimizer.AdamW(
            self.schedule,
            beta1=0.9,
            beta2=0.98,
            epsilon=1e-8,
            parameters=self.parameters,
            weight_decay=0.1,
            apply_decay_param_fun=lambda name: name in decayed,
            grad_clip=paddle.nn.ClipGradByGlobalNorm(0.5),
        )

    def step(self) -> None:
        """Do what follows a backward pass."""
        self.optimizer.step()
        self.schedule.step()


def make_momentum(model: nn.Layer) -> paddle.optimizer.Optimizer:
    """Return stochastic gradient descent with momentum and weight decay."""
    return paddle.optimizer.Momentum(0.05, momentum=0.9, parameters=model.parameters(), weight_decay=5e-4)
