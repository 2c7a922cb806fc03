"""Metrics and artifacts in, HTML and Markdown out."""
