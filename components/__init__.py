"""TFX components of the pipeline."""
