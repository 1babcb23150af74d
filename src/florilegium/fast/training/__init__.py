"""A training step on a GPU: BLOOM's blocks forward and backward without autograd."""
