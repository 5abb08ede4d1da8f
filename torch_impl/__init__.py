"""What only PyTorch can say. Everything else is written once, in `parity.backend`."""
