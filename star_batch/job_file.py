"""A job's YAML as plain values, whoever wrote it: bounded in bytes, depth and what its aliases add up to.

Everything is refused while the file is parsed, before anything large is built. Knows no key of a job.
"""

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import Resolver
from yaml.scanner import Scanner

from star_batch.errors import ConfigError
from star_batch.wording import printable

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
_NODE_BYTES = 50
"""What a key or a value counts beside its text, so that very many short ones are refused as well."""
_LONGEST_NUMBER = 64

_TAG = "tag:yaml.org,2002:"
_KINDS = {"int": "number", "float": "number", "bool": "yes or no"}
_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "map", "seq"))


def read_yaml(path: Path, expected: str = "expected sections such as input:, output: and model:") -> dict[str, Any]:
    """The sections of a job's file.

    Raises:
        ConfigError: it cannot be read, or is no YAML of sections; one line that quotes none of its values.
    """
    shown = printable(path)
    try:
        values = _parse(_read(path, shown))
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{shown}: is not text in UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown}{_problem(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{shown}: {expected}")
    return values


def read_value(text: str, shown: str) -> Any:
    """One value as a job's file would say it: a number, a text, a list, null; `shown` is what it belongs to.

    Raises:
        ConfigError: it is no YAML; nothing of it is quoted.
    """
    try:
        return _parse(text)
    except (yaml.YAMLError, UnicodeError):
        raise ConfigError(f"{printable(shown)}: the value is not YAML; put a text in quotes") from None


def _read(path: Path, shown: str) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{shown}: is larger than {MAX_BYTES:,} bytes; a job's file holds options, not data")
    return data.decode("utf-8-sig")


def _parse(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _problem(error: yaml.YAMLError) -> str:
    """Without YAML's quotation of the line, which may hold a secret."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f", line {error.problem_mark.line + 1}: {printable(error.problem)}"
    return ": is not YAML"


def _refused(node: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


class _SlowParser(Reader, Scanner, Parser):
    """Of a PyYAML that was built without libyaml."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


_Parser: Any = getattr(yaml, "_yaml").CParser if yaml.__with_libyaml__ else _SlowParser  # noqa: B009


class _Loader(Composer, _Parser, SafeConstructor, Resolver):  # type: ignore[misc]  # one of two parsers
    """What a job needs of YAML: texts, numbers, lists, sections under names that differ, aliases within bounds."""

    def __init__(self, text: str) -> None:
        _Parser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._depth = 0
        self._size = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event, before = self.peek_event(), self._size
        is_alias = isinstance(event, yaml.AliasEvent)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refused(event, f"more than {MAX_DEPTH} levels, one within the other")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise _refused(event, "an alias stands within what it means")
        self._count(event, self._sizes[id(node)] if is_alias else _NODE_BYTES)
        if not is_alias:
            self._sizes[id(node)] = self._size - before
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        _check_tag(node)
        self._count(node, len(node.value))
        if node.tag in (_TAG + "int", _TAG + "float") and len(node.value) > _LONGEST_NUMBER:
            raise _refused(node, f"a number of {len(node.value):,} characters")
        return node

    def compose_sequence_node(self, anchor: Any) -> Any:
        node = super().compose_sequence_node(anchor)
        _check_tag(node)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        _check_tag(node)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag not in (_TAG + "str", _TAG + "merge"):
                raise _refused(key, "a key that is no text; put it in quotes")
            if key.value in seen:
                raise _refused(key, f"{printable(key.value)} is given twice")
            seen.add(key.value)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError):
            kind = node.tag.removeprefix(_TAG)
            raise _refused(node, f"the value is no {_KINDS.get(kind, kind)}; put it in quotes") from None

    def construct_whole_number(self, node: Any) -> int:
        number: int = self.construct_yaml_int(node)
        if not -(2**63) <= number < 2**63:
            raise _refused(node, "a number of more than 64 bits")
        return number

    def _count(self, node: Any, size: int) -> None:
        self._size += size
        if self._size > MAX_BYTES:
            raise _refused(node, f"more than {MAX_BYTES:,} bytes from here on, with what its aliases stand for")


def _check_tag(node: Any) -> None:
    if node.tag not in _TAGS:
        raise _refused(node, f"the tag {printable(node.tag)} has no meaning here")


_Loader.yaml_constructors = SafeConstructor.yaml_constructors | {
    _TAG + "int": _Loader.construct_whole_number,
    # A date is the text that was written, also where there is no such day.
    _TAG + "timestamp": SafeConstructor.construct_yaml_str,
}
