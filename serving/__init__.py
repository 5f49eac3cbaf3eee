"""What leaves the pipeline."""
