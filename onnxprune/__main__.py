"""`python -m onnxprune`."""

from onnxprune.cli import main

if __name__ == "__main__":
    main(prog_name="onnxprune")
