"""Writing text on a GPU: one recorded graph a token, weights as they are stored."""
