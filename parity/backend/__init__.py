"""What a framework must offer, the registry of frameworks, and worker processes that speak the same protocol."""
