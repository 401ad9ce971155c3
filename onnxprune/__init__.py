"""Prune trained ONNX models by behaviour: smaller and faster, without framework, labels or retraining.

The code is best read from `pipeline`, pruning on one page. Every module imports only from those before it in the order
of `tests/test_layering.py`.
"""

__version__ = "0.1.0"

from onnxprune.errors import BudgetError, DataError, InternalError, ModelError, OnnxPruneError
from onnxprune.pipeline import Result, apply, compare, inspect, prune
from onnxprune.plan import Plan
from onnxprune.sweep import sweep

__all__ = [
    "BudgetError",
    "DataError",
    "InternalError",
    "ModelError",
    "OnnxPruneError",
    "Plan",
    "Result",
    "__version__",
    "apply",
    "compare",
    "inspect",
    "prune",
    "sweep",
]
