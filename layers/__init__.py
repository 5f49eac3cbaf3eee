"""How a row is scored."""
