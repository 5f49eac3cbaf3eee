"""Models side by side: the same rows, budget and protocol for all, over several seeds."""
