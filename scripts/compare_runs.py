#!/usr/bin/env python
"""Compare runs by accuracy and minutes, as a table and a picture; see --help."""

from parity.cli.entry import script

if __name__ == "__main__":
    script("compare_runs")
