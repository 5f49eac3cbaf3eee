"""How a row is scored: Keras layers, one idea per file, in `keras.ops` only."""
