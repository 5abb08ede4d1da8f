#!/usr/bin/env python
"""Run an experiment of the articles in both frameworks; see --help."""

from parity.cli.entry import script

if __name__ == "__main__":
    script("experiment")
