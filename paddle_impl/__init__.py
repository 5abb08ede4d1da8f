"""The code that needs Paddle. All other code is written once for both frameworks, in `parity.backend`."""
