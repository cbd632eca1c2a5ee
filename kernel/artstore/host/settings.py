"""What an operator may set, and where it comes from: command line, then environment, then file, then default.

There is one TOML file, and every key of it is also a variable `ARTSTORE_...`, with `__` between levels. An unknown key
is an error with a suggestion: a misspelt limit would be a limit that nobody set.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from artstore.attr import plain_message
from artstore.errors import ConfigError
from artstore.host.roles import ROLES
from artstore.host.sections import Limits, Log, Plugins, Server
from artstore.modes import Mode

DEFAULTS = {role.name: role.default for role in ROLES.values() if role.default is not None}
"""The roles that one provider fills, and the provider that fills it when nothing is set."""
USE = "use"
"""The key of a role's section that names its provider."""

M = TypeVar("M", bound=BaseModel)

_ENV = "ARTSTORE_"
_NOT_SETTINGS = {"ARTSTORE_CONFIG", "ARTSTORE_HOME", "ARTSTORE_PLUGINS"}


class ProviderTables(BaseModel, extra="allow"):
    """The section of a role that any number of providers fill: one table for each of them.

    A table is validated when its provider is built, by the model of the provider itself.
    """

    def table(self, provider: str) -> dict[str, Any]:
        """Return the settings of one provider, not validated."""
        return dict((self.__pydantic_extra__ or {}).get(provider) or {})

    def tables(self) -> list[str]:
        """Return the names of the providers that have a table."""
        return list(self.__pydantic_extra__ or {})

    def chosen(self) -> list[str]:
        """Return the names of the providers that are used."""
        return self.tables()


class ProviderChoice(ProviderTables):
    """The section of a role that one provider fills."""

    use: str

    def chosen(self) -> list[str]:
        return [self.use]


def _choice(role: str) -> Any:
    return Field(default_factory=lambda: ProviderChoice(use=DEFAULTS[role]))


class Settings(BaseModel, extra="forbid"):
    """The settings of one element."""

    element_id: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="remembered by the store"
    )
    display_name: str | None = Field(default=None, max_length=200, description="shown by /api/v1/info")
    mode: Mode = Field(default=Mode.EDIT, description="of a new element; later it remembers its own")
    backend: ProviderChoice = _choice("backend")
    naming: ProviderChoice = _choice("naming")
    cache: ProviderChoice = _choice("cache")
    wal: ProviderChoice = _choice("wal")
    auth: ProviderChoice = _choice("auth")
    observer: ProviderTables = ProviderTables()
    server: Server = Server()
    limits: Limits = Limits()
    log: Log = Log()
    plugins: Plugins = Plugins()

    @model_validator(mode="before")
    @classmethod
    def _fill_in_default_providers(cls, raw: Any) -> Any:
        """Accept `[backend.local]` without `backend.use = "local"`."""
        return {
            name: {USE: DEFAULTS[name]} | value if name in DEFAULTS and isinstance(value, dict) else value
            for name, value in dict(raw).items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The settings, and where each of them came from (`sources`: dotted key -> file, variable or option)."""

    home: Path
    file: Path | None
    settings: Settings
    sources: Mapping[str, str] = field(default_factory=dict)


def load(
    *,
    home: Path | None = None,
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Configuration:
    """Return the configuration. `overrides`: dotted key -> value, from the command line. Raises `ConfigError`."""
    environ = os.environ if environ is None else environ
    home = (home or Path(environ.get("ARTSTORE_HOME") or "artstore-data")).expanduser()
    home = Path(os.path.realpath(home))  # the processes of one home find each other by its path
    tree: dict[str, Any] = {}
    sources: dict[str, str] = {}
    file = _find_file(home, config, environ)
    if file is not None:
        _merge(tree, _read_file(file), str(file), sources)
    for name, path, value in _from_environment(environ):
        _put(tree, path, value, name, sources)
    for dotted, value in (overrides or {}).items():
        _put(tree, dotted.split("."), value, f"--{dotted.rpartition('.')[2].replace('_', '-')}", sources)
    settings = validate(Settings, tree, sources)
    return Configuration(home=home, file=file, settings=settings, sources=sources)


def validate(model: type[M], raw: Mapping[str, Any], sources: Mapping[str, str], under: str = "") -> M:
    """Return `raw` as a `model`, whose dotted key is `under`.

    Where the model has a field `x` and no `x_file`, a key `x_file` is read as `x`: the content of that file. Raises
    `ConfigError`, which names the place and, for an unknown key, the one that was probably meant.
    """
    try:
        return model.model_validate(_read_files(model, raw, sources, under))
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False)[0]
        loc = [str(x) for x in first["loc"]]
        place = place_of(under, loc, sources)
        if first["type"] == "extra_forbidden":
            known = _fields_at(model, loc[:-1])
            raise ConfigError(
                f"There is no setting '{loc[-1]}'.", place=place, cure=suggestion(loc[-1], known)
            ) from None
        shown = "" if _is_secret(model, loc, first["input"]) else f" (it is {first['input']!r})"
        raise ConfigError(
            f"{plain_message(first)}{shown}.", place=place, cure="See docs/configuration.md."
        ) from None


def _is_secret(model: type[BaseModel], loc: list[str], value: object) -> bool:
    """Return whether `value` is, or may contain, a secret: a whole table may, and a URL with a user name."""
    if not isinstance(value, str | int | float) or "@" in str(value):
        return True
    field = model.model_fields.get(loc[0]) if loc else None
    return "secret" in "".join(loc) or (
        field is not None and ("Secret" in repr(field.annotation) or not field.repr)
    )


def _read_files(
    model: type[BaseModel], raw: Mapping[str, Any], sources: Mapping[str, str], under: str
) -> dict[str, Any]:
    values = dict(raw)
    fields = model.model_fields
    for key, value in raw.items():
        below = fields[key].annotation if key in fields else None
        if isinstance(value, Mapping) and isinstance(below, type) and issubclass(below, BaseModel):
            if not issubclass(
                below, ProviderTables
            ):  # a provider's model decides what is a file in its table
                values[key] = _read_files(below, value, sources, f"{under}.{key}" if under else key)
        elif key not in fields and key.removesuffix("_file") in fields:
            path = Path(str(values.pop(key)))
            try:
                values[key.removesuffix("_file")] = path.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as e:
                place = place_of(under, [key], sources)
                raise ConfigError(f"{path} cannot be read: {_reason(e)}.", place=place) from None
    return values


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return os.strerror(error.errno or 0) if isinstance(error, OSError) else f"byte {error.start} is not UTF-8"


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """Return a sentence that says which of `known` was probably meant."""
    known = sorted(known)
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else f"There is: {', '.join(known) or 'nothing to set'}."


def _find_file(home: Path, config: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = config or (Path(environ["ARTSTORE_CONFIG"]) if environ.get("ARTSTORE_CONFIG") else None)
    usual_places = (home / "artstore.toml", Path("/etc/artstore/artstore.toml"))
    try:
        if named is not None and not named.is_file():
            raise ConfigError(f"There is no file {named}.", place="--config or ARTSTORE_CONFIG")
        return named or next((path for path in usual_places if path.is_file()), None)
    except OSError as e:
        cure = "Let this user read there, or name another: --home, --config."
        raise ConfigError(f"It cannot be read: {e.strerror}.", place=str(e.filename), cure=cure) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors of Windows put a byte order mark first
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"It cannot be read: {_reason(e)}.", place=str(path)) from None
    try:
        return tomllib.loads(_allow_role_beside_its_tables(text))
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"It is not valid TOML: {e}.", place=str(path)) from None


def _allow_role_beside_its_tables(toml: str) -> str:
    """Return the text with each `backend = "s3"` above the first table written as `backend.use = "s3"`.

    People write `backend = "s3"` beside `[backend.s3]`, and TOML forbids it: one key cannot be a text and a table. Only
    the text can be changed, because a parser refuses the file before it returns anything.
    """
    table = re.search(r"^\s*\[", toml, re.MULTILINE)
    top = table.start() if table else len(toml)
    role = re.compile(rf"^(\s*(?:{'|'.join(DEFAULTS)}))(\s*=\s*[\"'])", re.MULTILINE)
    return role.sub(rf"\1.{USE}\2", toml[:top]) + toml[top:]


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, list[str], str]]:
    if environ.get("ARTSTORE_PLUGINS", "none").lower() not in ("", "none"):
        raise ConfigError(
            "It can only be 'none'.", place="ARTSTORE_PLUGINS", cure="Leave it out to load all."
        )
    for name, value in sorted(environ.items()):
        if not name.startswith(_ENV) or name in _NOT_SETTINGS:
            continue
        path = name.removeprefix(_ENV).lower().split("__")
        if path[0].removesuffix("_file") not in Settings.model_fields or not all(path):
            known = {_ENV + f.upper() for f in Settings.model_fields} | _NOT_SETTINGS
            raise ConfigError("This variable sets nothing.", place=name, cure=suggestion(name, known))
        if path[0] in DEFAULTS and len(path) == 1:
            path.append(USE)
        yield name, path, value


def _merge(
    tree: dict[str, Any], new: Mapping[str, Any], source: str, sources: dict[str, str], at: str = ""
) -> None:
    for key, value in new.items():
        dotted = f"{at}{key}"
        if isinstance(value, Mapping):
            _merge(tree.setdefault(key, {}), value, source, sources, f"{dotted}.")
        else:
            tree[key] = value
        sources[dotted] = source


def _put(tree: dict[str, Any], path: list[str], value: Any, source: str, sources: dict[str, str]) -> None:
    for part in path[:-1]:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(f"'{part}' is a value, not a table.", place=source)
        tree = below
    key = path[-1]
    # `x` and `x_file` set the same: the stronger source wins, whichever of the two each source uses.
    other = key.removesuffix("_file") if key.endswith("_file") else f"{key}_file"
    for name in (key, other):
        tree.pop(name, None)
        sources.pop(".".join([*path[:-1], name]), None)
    tree[key] = value
    sources[".".join(path)] = source


def place_of(under: str, loc: list[str], sources: Mapping[str, str]) -> str:
    """Return where the setting `loc` below `under` was set: a variable, an option, or a file and the key in it."""
    dotted = ".".join(x for x in [under, *loc] if x)
    below = (k for k in sources if k.startswith(f"{dotted}."))
    source = next((sources[k] for k in (dotted, f"{dotted}_file", *below) if k in sources), "")
    if source.startswith((_ENV, "--")):
        return source
    return f"{source}: {dotted}" if source else dotted


def _fields_at(model: type[BaseModel], loc: list[str]) -> Iterable[str]:
    """Return the names of the fields below `loc`, or none when `loc` is not a model of ours."""
    fields = model.model_fields
    for part in loc:
        annotation = fields[part].annotation if part in fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ()
        fields = annotation.model_fields
    return fields
