"""From trained weights to C, ONNX, one HTML file or a folder for the Hugging Face Hub, each compared with PyTorch."""

FORMATS = ("onnx", "c", "html", "hub")
"""The names in `formats.EXPORTERS`, for help texts that must not import torch."""
