#!/usr/bin/env python
"""Time training and inference in both frameworks; see --help."""

from parity.cli.entry import script

if __name__ == "__main__":
    script("bench")
