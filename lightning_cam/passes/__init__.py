"""What runs the model for the methods: one shared pass, and the passes of those that need more."""
