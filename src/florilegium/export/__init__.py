"""What leaves the house: merged models, GGUF files, model cards, and the verdict on each. `runs/export.py` puts them
together."""
