"""What a step of the user's does with a batch: seen while it runs, without changing it."""
