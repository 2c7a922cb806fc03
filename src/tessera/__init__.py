"""Multimodal generative recommendation as a DVC pipeline."""
