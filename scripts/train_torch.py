#!/usr/bin/env python
"""Train, resume or test in PyTorch; see --help."""

from parity.cli.entry import script

if __name__ == "__main__":
    script("train_torch")
