"""What a format is: a class that turns values of some types into bytes and back.

Defining a subclass with `format=`, `types=` and `extensions=` registers it. Looking a format up that nobody has defined
asks the installed plugins (entry points of the group `nbflow.datasets`) first. Everything that cannot work is an error
that names the value, the reason and what would work.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from nbflow._installed import entry_points
from nbflow.datasets.registry import Registry, installed, resolve, type_name
from nbflow.errors import DatasetError

__all__ = ["AbstractDataset"]

GROUP: Final = "nbflow.datasets"


class AbstractDataset(ABC):
    """A format for values of some types; subclass it to add one.

    The constructor takes the options of the format as keyword arguments (those that a user passes as `options`), so
    one instance serves one save or load. Name types of other libraries by strings, and import these libraries inside
    the methods; then defining the class imports nothing.

        class Yaml(AbstractDataset, format="yaml", types=(dict, list), extensions=("yaml", "yml"), requires="yaml"):
            def serialize(self, value):
                import yaml
                return yaml.safe_dump(value).encode()

            def deserialize(self, data):
                import yaml
                return yaml.safe_load(data)

    Args of the class statement (or class variables of the same names):
        format: Name of the format.
        types: The types it holds, classes or dotted names; the first is what loading gives by default.
        extensions: Extensions of its files, the preferred one first, without the dot.
        aliases: Further names of the format.
        requires: Modules that must be installed; by default the top-level ones of types that are given as names.

    A subclass that gives none of these is a plain base class and is not registered; one that gives some inherits the
    others. Registering a pair of type and format again replaces the class.
    """

    format: ClassVar[str] = ""
    types: ClassVar[tuple[type | str, ...]] = ()
    extensions: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()

    _registry: ClassVar[Registry[type[AbstractDataset]]] = Registry()
    _auto_discover: ClassVar[bool] = True
    _seen_plugins: ClassVar[set[str]] = set()

    def __init_subclass__(
        cls,
        *,
        format: str | None = None,
        types: type | str | Iterable[type | str] | None = None,
        extensions: str | Iterable[str] | None = None,
        aliases: str | Iterable[str] | None = None,
        requires: str | Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        given = {"format": format, "types": types, "extensions": extensions, "aliases": aliases, "requires": requires}
        for name, value in given.items():
            if value is not None:
                setattr(cls, name, value)
        own = given.keys() & vars(cls).keys()
        if not own:
            return
        cls.types = _checked_types(cls)
        cls.extensions = tuple(extension.removeprefix(".").lower() for extension in _tuple(cls.extensions))
        cls.aliases = _tuple(cls.aliases)
        cls.requires = _tuple(cls.requires) if "requires" in own else _modules_of(cls.types) or cls.requires
        cls._registry.add(cls, format=cls.format, types=cls.types, extensions=cls.extensions, aliases=cls.aliases)

    @abstractmethod
    def serialize(self, value: Any) -> bytes:
        """Return the bytes of a file that holds `value`; any exception becomes a `DatasetError` caused by it."""

    @abstractmethod
    def deserialize(self, data: bytes) -> Any:
        """Return the value that the bytes of a file hold; any exception becomes a `DatasetError` caused by it."""

    @classmethod
    def get(cls, type_: type | None, format: str, *, loading: bool = False) -> type[AbstractDataset]:
        """Return the class that reads and writes `type_`, or its nearest base, in `format`.

        Args:
            type_: Type of the value; None for the natural one of the format, whose libraries are installed.
            format: Name or alias of the format.
            loading: Whether a class that loads a subclass of `type_` will do, too.

        Raises:
            DatasetError: There is no such format, or it cannot hold the type.
        """
        name = cls.canonical_format(format)
        found = cls._find(type_, name, loading)
        if found is None:
            cls._discover()
            found = cls._find(type_, name, loading)
        if found is None:
            raise cls._cannot_hold(type_, name)
        return found

    @classmethod
    def infer_format(cls, type_: type | None, extension: str | None = None, *, loading: bool = False) -> str:
        """Return the format in which a value of `type_` is stored under a key with `extension`.

        Args:
            type_: Type of the value; None if any will do.
            extension: Extension of the key; without one the format is pickle, which holds everything.
            loading: As of `get`.

        Raises:
            DatasetError: No format has this extension, or none that has it holds the type.
        """
        if extension is None:
            return "pickle"
        formats = cls.formats_of_extension(extension)
        found = next((name for name in formats if cls._find(type_, name, loading)), None)
        if found is None:
            cls._discover()
            formats = cls.formats_of_extension(extension)
            found = next((name for name in formats if cls._find(type_, name, loading)), None)
        if found is not None:
            return found
        if formats:
            raise cls._cannot_hold(type_, formats[0])
        raise DatasetError(
            f"No dataset format has the extension '.{extension}'. Use one of "
            f"{', '.join('.' + known for known in cls._registry.extensions())}, or name the format: format='pickle'.",
            extension=extension,
        )

    @classmethod
    def canonical_format(cls, format: str) -> str:
        """Return the name of the format that `format` names or is an alias of.

        Raises:
            DatasetError: There is no such format.
        """
        if (name := cls._registry.canonical(format)) is None:
            cls._discover()
            name = cls._registry.canonical(format)
        if name is None:
            raise DatasetError(
                f"There is no dataset format {format!r}. Use one of {', '.join(cls._registry.formats())}, or add it by "
                "a subclass of nbflow.datasets.AbstractDataset.",
                format=str(format),
            )
        return name

    @classmethod
    def formats_of_extension(cls, extension: str) -> tuple[str, ...]:
        """Return the formats that files with `extension` may have, the usual one first; none if it is unknown."""
        wanted = extension.removeprefix(".").lower()
        if not cls._registry.of_extension(wanted):
            cls._discover()
        return cls._registry.of_extension(wanted)

    @classmethod
    def get_formats_for_type(cls, type_: type) -> set[str]:
        """Return the names of all formats that can hold `type_`; installed plugins are asked, too."""
        cls._discover()
        return set(cls._registry.of_type(type_))

    @classmethod
    def get_extension(cls, type_: type, format: str) -> str | None:
        """Return the preferred extension, without its dot, for `type_` in `format`, or None if it cannot be held."""
        name = cls._registry.canonical(format)
        found = cls._registry.find(type_, name) if name is not None else None
        if name is None or found is None:
            return None
        classes = (found, *(entry for _, entry in cls._registry.entries(name)))
        return next((entry.extensions[0] for entry in classes if entry.extensions), None)

    @classmethod
    def missing(cls) -> tuple[str, ...]:
        """Return the modules that this format requires and that are not installed."""
        return tuple(module for module in cls.requires if not installed(module))

    @classmethod
    def load_plugins(cls, *names: str, auto_discover: bool | None = None) -> None:
        """Import formats that installed packages offer as entry points of the group `nbflow.datasets`.

        Args:
            *names: Names of entry points; none for all of them.
            auto_discover: Whether a failing look-up may import all of them by itself, from now on.

        Raises:
            DatasetError: There is no entry point of that name, or importing it failed.
        """
        if auto_discover is not None:
            AbstractDataset._auto_discover = auto_discover
            if not names:
                return
        found = _entry_points()
        if unknown := [name for name in names if name not in found]:
            raise DatasetError(
                f"No installed package offers dataset formats under the name {unknown[0]!r} (entry points of the "
                f"group {GROUP!r}). Install the package; there are: {', '.join(sorted(found)) or 'none'}."
            )
        for name in names or found:
            try:
                found[name].load()
            except Exception as error:
                raise DatasetError(
                    f"The dataset plugin {name!r} ({found[name].value}) failed to import: {type(error).__name__}: "
                    f"{error}. Repair or remove the package."
                ) from error
            cls._seen_plugins.add(name)

    @classmethod
    def _discover(cls) -> None:
        """Import the plugins that were not imported yet; one that fails is reported once and left alone."""
        if not AbstractDataset._auto_discover:
            return
        for name in _entry_points().keys() - cls._seen_plugins:
            cls._seen_plugins.add(name)
            try:
                cls.load_plugins(name)
            except DatasetError as error:
                warnings.warn(str(error), RuntimeWarning, stacklevel=4)

    @classmethod
    def _find(cls, type_: type | None, format: str, loading: bool) -> type[AbstractDataset] | None:
        entries = cls._registry.entries(format)
        if type_ is None:
            return next((entry for _, entry in entries if not entry.missing()), entries[0][1])
        found = cls._registry.find(type_, format)
        if found is None and loading:
            found = next((entry for declared, entry in entries if _is_subclass(resolve(declared), type_)), None)
        return found

    @classmethod
    def _cannot_hold(cls, type_: type | None, format: str) -> DatasetError:
        name = type_name(type_ or object)
        held = ", ".join(type_name(declared) for declared, _ in cls._registry.entries(format))
        others = {other: cls.get_extension(type_ or object, other) for other in cls._registry.of_type(type_ or object)}
        listed = ", ".join(f"{other} (.{extension})" for other, extension in sorted(others.items()))
        return DatasetError(
            f"Format {format!r} cannot hold {name}; it holds {held}. Convert the value, or choose a format that holds "
            f"{name}: {listed}.",
            format=format,
            type_name=name,
        )


def _is_subclass(known: type | None, base: type) -> bool:
    """Return whether `known` is a subclass of `base`, which may be a protocol that cannot tell."""
    try:
        return known is not None and issubclass(known, base)
    except TypeError:
        return False


def _tuple(value: Any) -> tuple[Any, ...]:
    """Return one or several as a tuple."""
    return (value,) if isinstance(value, str | type) else tuple(value)


def _checked_types(cls: type[AbstractDataset]) -> tuple[type | str, ...]:
    """Return the types of a class that is about to be registered, or say what is wrong with it."""
    types = _tuple(cls.types)
    usable = all(isinstance(one, type) or (isinstance(one, str) and "." in one) for one in types)
    if not types or not usable or not cls.format or not isinstance(cls.format, str):
        raise DatasetError(
            f"Dataset class {cls.__qualname__} has format={cls.format!r} and types={types!r}; it needs a name and "
            "classes or dotted names: class X(AbstractDataset, format='csv', types='pandas.DataFrame')."
        )
    return types


def _modules_of(types: tuple[type | str, ...]) -> tuple[str, ...]:
    """Return the top-level modules of types that are given as names."""
    return tuple(dict.fromkeys(name.partition(".")[0] for name in types if isinstance(name, str)))


def _entry_points() -> dict[str, Any]:
    """Return the installed entry points of our group by name."""
    return {point.name: point for point in entry_points(GROUP)}
