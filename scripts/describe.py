#!/usr/bin/env python
"""Say what networks cost, layer by layer; see --help."""

from parity.cli.entry import run

if __name__ == "__main__":
    run("describe")
