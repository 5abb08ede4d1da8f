"""What the scripts do, one module a command; each has `main`. The scripts only call them."""
