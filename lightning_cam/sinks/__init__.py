"""Places that results go to: one class per logger."""
