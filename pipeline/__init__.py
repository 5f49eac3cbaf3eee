"""The pipeline of TFX components, its commands and its reports."""
