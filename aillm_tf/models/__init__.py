"""Backbones: one TransformerConfig in, hidden states out."""
