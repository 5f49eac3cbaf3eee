"""One file per paper; the file's name is the model's name in the registry."""
