"""Observe what the user's step does with a batch while it runs, without changing it."""
