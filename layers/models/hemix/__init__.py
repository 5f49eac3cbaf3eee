"""HeMix: the model and every part that only it uses."""
