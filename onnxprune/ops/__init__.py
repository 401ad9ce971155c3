"""Everything that is specific to an operator: one entry per operator, in the file of its family.

An entry has up to six parts (see `Rule`): `couple` says what the channel ids of the outputs are and what it ties;
`shrink` rewrites what the node says about sizes; `linear` describes the operator as a matrix product if it is one, and
`loop` what it makes of its own channels; `affine` its per-channel scale and shift if it is one; `commutes` whether
channels may be mixed before it as well as behind. An operator without an entry freezes all it touches: unknown never
means element-wise.

To add one, write its `couple` on a `Visit`: ask for the ids of its inputs, tie or freeze them, name the axes of its
constants by `parameter`, and set the ids of its outputs. What it forgets is safe: an input that it doesn't ask for
and an output that it doesn't set keep all channels. Then add a case to the tests, and read its golden listing.
"""

import pkgutil
from importlib import import_module
from pathlib import Path

from onnxprune.ops.registry import RULES, Cut, Rule, View, Visit, find

__all__ = ["RULES", "Cut", "Rule", "View", "Visit", "find"]

for _module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])):
    import_module(f"{__name__}.{_module}")  # where rules register themselves
