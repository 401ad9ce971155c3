"""Prune trained ONNX models by behaviour: smaller and faster, without framework, labels or retraining."""

__version__ = "0.1.0"
