"""Exports: merged models, GGUF files, quantised checkpoints, uploads to the Hub, model cards, and the check of each.
`runs/export.py` puts them together."""
