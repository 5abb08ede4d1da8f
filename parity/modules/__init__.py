"""What both frameworks say about anybody's module: kinds of layers, settings, arrays, and what hooks record."""
