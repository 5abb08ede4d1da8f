#!/usr/bin/env python
"""Run an experiment of the articles in both frameworks; see --help."""

import sys

from parity.commands.experiment import main

if __name__ == "__main__":
    sys.exit(main())
