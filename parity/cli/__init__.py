"""The commands of `vgg-parity`, one module each, whose `main` is the command."""
