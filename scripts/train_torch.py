#!/usr/bin/env python
"""Train, resume or test in PyTorch; see --help."""

from parity.cli.entry import run

if __name__ == "__main__":
    run("train", "torch")
