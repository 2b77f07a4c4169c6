"""Exports of finetuned classifiers: one module for each format, each with a function `plan`, and the card."""

FORMATS = ("timm", "huggingface", "onnx", "openslip")
"""What a classifier can be exported to."""
