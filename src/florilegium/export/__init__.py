"""What leaves the house: the model card."""

from florilegium.export.card import adapter_card

__all__ = ["adapter_card"]
