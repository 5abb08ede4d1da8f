"""The training of two small models as a user of PyTorch writes it: loss, optimizer, clipping and schedule.

`parity.selftest.of_programs` plants mistakes in it, and compares it with its twin of the other framework.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity.network import articles
from torch_impl import model as models

RATE = 1e-3
"""Learning rate of the first steps."""


def make_network() -> nn.Module:
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

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        decayed = [parameter for parameter in self.parameters if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters if parameter.ndim == 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), eps=1e-8)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=2, gamma=0.5)

    def step(self) -> None:
        """Do what follows a backward pass."""
        nn.utils.clip_grad_norm_(self.parameters, 0.5)
        self.optimizer.step()
        self.schedule.step()


def make_momentum(model: nn.Module) -> torch.optim.Optimizer:
    """Return stochastic gradient descent with momentum and weight decay."""
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
