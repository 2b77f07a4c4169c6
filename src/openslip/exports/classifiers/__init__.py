"""Finetuned classifiers in other people's formats: a module a format, each with a function `plan`, and their card."""

FORMATS = ("timm", "huggingface", "onnx", "openslip")
"""What a classifier can be exported to."""
