"""Passes that run the model for the methods: one shared pass, and further ones for methods that need more."""
