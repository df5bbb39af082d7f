"""The callback for Lightning, and what it is made of; nothing outside of here and `cli` imports lightning."""
