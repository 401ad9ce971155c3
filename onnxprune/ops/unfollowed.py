"""Operators of ONNX through which no channels are followed, and why, as it completes the sentence "TopK 'x' ...".

They have no rule on purpose, so what they touch stays, as with any operator that nobody taught. All others of ONNX have
a rule; a test compares both with the definitions of the installed onnx, so that a new operator shows up there.
"""

from __future__ import annotations

OPERATORS = {
    "moves elements to places that its indices count over all channels": ("MaxUnpool",),
    "picks elements by their values": ("Compress", "NonMaxSuppression", "NonZero", "TopK", "Unique"),
    "makes its elements of indices": ("OneHot", "TfIdfVectorizer"),
    "transforms into frequencies": ("DFT", "MelWeightMatrix", "STFT"),
    "makes a window of a size": ("BlackmanWindow", "HammingWindow", "HannWindow"),
    "draws random numbers": ("Bernoulli", "Multinomial"),
    "compares them with targets": ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"),
    "works on a sequence of tensors or on one that may be missing": (
        *("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"),
        *("SequenceLength", "SplitToSequence", "Optional", "OptionalGetElement", "OptionalHasElement"),
    ),
    "works on text": ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"),
    "reads an image file": ("ImageDecoder",),
    "reads the bits of numbers as other numbers": ("BitCast",),
    "computes determinants of them": ("Det",),
    "keeps a state from step to step": ("CausalConvWithState", "LinearAttention"),
}
REASONS = {name: why for why, names in OPERATORS.items() for name in names}
BODIES = {"If", "Loop", "Scan", "SequenceMap"}  # they say so by themselves
