"""Reads the section `Example:` of docstrings as griffe reads `Examples:`, as sessions of Python and not as quotes."""

import griffe


class OneExample(griffe.Extension):
    """Renames the section."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Change the docstring of an object that was loaded."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
