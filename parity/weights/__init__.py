"""The canonical state of a network, its file formats, and the names that foreign state dicts use."""
