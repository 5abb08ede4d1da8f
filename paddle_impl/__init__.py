"""What only Paddle can say. Everything else is written once, in `parity.backend`."""
