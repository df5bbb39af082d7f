"""Parse YAML from a file or the command line, whatever it contains."""

from typing import Any

import yaml


def load_yaml(text: str, *, as_text: bool = False) -> Any:
    """Read YAML: plain values, sequences and mappings.

    Args:
        text: The YAML.
        as_text: Whether to leave numbers and words such as `no` as they are written.

    Raises:
        ValueError: It is no YAML, or more than plain values: aliases, of which a few lines can stand for more than the
            memory holds, or unknown tags.

    Example:
        >>> load_yaml("[1, no, a]"), load_yaml("[1, no, a]", as_text=True)
        ([1, False, 'a'], ['1', 'no', 'a'])
    """
    try:
        return yaml.load(text, _Texts if as_text else _Values)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    # Beside YAMLError the reader raises what Python's own conversions do: of a date `2001-13-01`, of `!!int x`.
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error


class _NoAliases:
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # type: ignore[attr-defined]
            raise yaml.YAMLError("aliases (*name) are not supported")
        return super().compose_node(parent, index)  # type: ignore[misc]


class _Values(_NoAliases, yaml.SafeLoader):
    pass


class _Texts(_NoAliases, yaml.BaseLoader):
    pass
