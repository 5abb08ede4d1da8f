#!/usr/bin/env python
"""Count how many planted faults this suite and other people's criteria catch; see --help."""

from parity.cli.entry import script

if __name__ == "__main__":
    script("compare_criteria")
