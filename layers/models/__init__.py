"""One room, or one file, per paper."""
