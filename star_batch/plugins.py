"""What packages of others add: a pruning method, a model family, an input format. Knows none of them.

An installed package names a module or a callable under the entry-point group `star_batch.plugins`. It is loaded once in
each process that needs it, the workers of a cluster included, when a name is asked for that is not known yet.
"""

import importlib.metadata
import threading
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Generic, TypeVar

from star_batch.errors import ConfigError, PluginError
from star_batch.wording import printable

GROUP = "star_batch.plugins"

T = TypeVar("T")

_lock = threading.RLock()
_failed: list[PluginError] | None = None


class Registry(Mapping[str, T], Generic[T]):
    """What each name stands for: our own from the start, those of plugins once a name is not among ours.

    A plugin that cannot be loaded stops nobody but who asks for a name that is not there without it.
    """

    def __init__(self, what: str, own: Mapping[str, T] | None = None) -> None:
        self._what = what
        self._entries = dict(own or {})

    def register(self, name: str, entry: T) -> None:
        """Raises:
        ConfigError: the name is taken, or is none.
        """
        if not name or not name.isprintable():
            raise ConfigError(f"{printable(repr(name))} is no name for a {self._what}")
        taken = self._entries.setdefault(name, entry)
        if taken is not entry:
            raise ConfigError(f"the {self._what} {name!r} is registered already, by {_maker(taken)}")

    @property
    def loaded(self) -> tuple[str, ...]:
        """The names that are known without loading a plugin."""
        return tuple(self._entries)

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            failed = load_plugins()
            if name not in self._entries and failed:
                raise failed[0]
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(self._entries)

    def __len__(self) -> int:
        load_plugins()
        return len(self._entries)


def load_plugins() -> list[PluginError]:
    """All that are installed, once in this process; returns those that could not be loaded.

    A plugin that asks a registry while it is loaded sees what is there by then.
    """
    global _failed
    with _lock:
        if _failed is None:
            _failed = []
            for entry in importlib.metadata.entry_points(group=GROUP):
                _load(entry, _failed)
        return _failed


def _load(entry: EntryPoint, failed: list[PluginError]) -> None:
    try:
        loaded = entry.load()
        if callable(loaded):
            loaded()
    except Exception as error:  # whatever somebody's module raises
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        failure = PluginError(f"the plugin {_named(entry)} cannot be loaded: {printable(reason)}")
        failure.__cause__ = error
        failed.append(failure)


def _named(entry: EntryPoint) -> str:
    of = f" of {entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""
    return printable(f"{entry.name!r}{of} ({entry.value})")


def _maker(entry: object) -> str:
    return str(getattr(entry, "__module__", type(entry).__module__))
