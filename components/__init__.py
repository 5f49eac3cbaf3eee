"""TFX wrappers."""
