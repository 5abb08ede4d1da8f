"""`python -m parity`: the same as `vgg-parity`."""

from parity.cli.entry import executable

if __name__ == "__main__":
    executable()
