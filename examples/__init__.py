"""Runnable examples: a data module with known boxes, a classifier, a demo and a command line."""
