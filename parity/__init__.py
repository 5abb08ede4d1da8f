"""What the Paddle and the PyTorch implementations share: networks, recipes, data, weights, comparison.

Nothing here imports a framework at module level: decisions are taken here, `paddle_impl` and `torch_impl` only spell them.
"""

__version__ = "0.1.0"
