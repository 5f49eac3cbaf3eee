from .dcnv2 import DCNv2 as DCNv2
