"""Reading and writing files: whole or not at all, and nothing in a file is trusted."""
