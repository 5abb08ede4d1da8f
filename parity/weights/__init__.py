"""The canonical state of a network, its file formats, and the names in state dicts of other projects."""
