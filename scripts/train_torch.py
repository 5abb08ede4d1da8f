#!/usr/bin/env python
"""Train, resume or test in PyTorch; see --help."""

from parity.commands.train import main
from parity.stopping import leave

if __name__ == "__main__":
    leave(main("torch"))
