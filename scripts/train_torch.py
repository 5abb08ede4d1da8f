#!/usr/bin/env python
"""Train, resume or test in PyTorch; see --help."""

import sys

from parity.commands.train import main

if __name__ == "__main__":
    sys.exit(main("torch"))
