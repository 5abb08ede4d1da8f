#!/usr/bin/env python
"""VGG16 with batch norm and dropout on CIFAR-10, as many Paddle scripts train it: eager mode, paddle.vision's transforms on PIL images,
a paddle.io.DataLoader with two workers.

`vgg-parity bench train --against` runs it. It times some steps after a warm-up and prints images/s. It uses nothing of this project but
its copy of CIFAR-10.
"""

import argparse
import time

import numpy as np
import paddle
from paddle import nn
from paddle.io import DataLoader, Dataset
from paddle.vision import transforms
from PIL import Image
from safetensors.numpy import load_file


class CIFAR10(Dataset):
    """Training images as PIL images, as paddle.vision's own data set gives them."""

    def __init__(self, path, transform):
        super().__init__()
        arrays = load_file(path)
        self.images = np.ascontiguousarray(arrays["train_images"].transpose(0, 2, 3, 1))
        self.labels, self.transform = arrays["train_labels"], transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


def vgg16():
    """The article's network with Paddle's own layers."""
    layers, channels = [], 3
    for filters, rates in (
        (64, (0.3, 0)),
        (128, (0.4, 0)),
        (256, (0.4, 0.4, 0)),
        (512, (0.4, 0.4, 0)),
        (512, (0.4, 0.4, 0)),
    ):
        for rate in rates:
            layers += [nn.Conv2D(channels, filters, 3, padding=1), nn.BatchNorm2D(filters), nn.ReLU()]
            layers += [nn.Dropout(rate)] if rate else []
            channels = filters
        layers.append(nn.MaxPool2D(2, 2))
    head = [nn.Flatten(), nn.Dropout(0.5), nn.Linear(512, 512), nn.BatchNorm1D(512), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, *head, nn.Linear(512, 512), nn.Linear(512, 10))


def main():
    """Trains for a few steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="cifar10.safetensors of this project's cache")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    options = parser.parse_args()
    loader = DataLoader(
        CIFAR10(options.data, transforms.ToTensor()),
        batch_size=options.batch_size,
        shuffle=True,
        num_workers=2,
        drop_last=True,
    )
    model, criterion = vgg16(), nn.CrossEntropyLoss()
    optimizer = paddle.optimizer.Momentum(0.1, 0.9, parameters=model.parameters(), weight_decay=2e-4)
    model.train()
    for step, (images, labels) in enumerate(loader):
        if step == options.warmup:
            started = time.perf_counter()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        loss.item()
        if step == options.warmup + options.steps - 1:
            break
    speed = options.steps * options.batch_size / (time.perf_counter() - started)
    print(f"{speed:.2f} images/s", flush=True)


if __name__ == "__main__":
    main()
