"""The code that needs PyTorch. All other code is written once for both frameworks, in `parity.backend`."""
