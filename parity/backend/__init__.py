"""What a framework must offer, the registry of frameworks, and worker processes that use the same protocol."""
