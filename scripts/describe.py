#!/usr/bin/env python
"""Say what networks cost, layer by layer; see --help."""

from parity.cli.entry import script

if __name__ == "__main__":
    script("describe")
