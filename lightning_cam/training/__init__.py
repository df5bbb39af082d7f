"""The callback for Lightning and its parts; nothing outside this package and `cli` imports lightning."""
