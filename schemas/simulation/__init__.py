"""A simulated log whose click probabilities are known, and what an ideal reader could make of it."""
