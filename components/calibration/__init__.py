"""Calibration: predictions as high as the labels turn out to be, fitted on rows that are not trained on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
