#!/usr/bin/env python
"""Check that the Paddle and the PyTorch implementation are one network; see --help."""

from parity.cli.entry import run

if __name__ == "__main__":
    run("check")
