"""What an operator may set, and where it comes from: command line > environment > file > default.

One TOML file, every key of it also as `ARTSTORE_...` with `__` between levels. Whatever is unknown is an error
with a suggestion: a misspelt limit is a limit that is not there.
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
from artstore.host.sections import Limits, Log, Plugins, Server
from artstore.modes import Mode

ROLES = ("backend", "naming", "cache", "wal", "auth")
USE = "use"
DEFAULTS = {"backend": "local", "naming": "dated", "cache": "sql", "wal": "files", "auth": "jwt"}

M = TypeVar("M", bound=BaseModel)

_ENV = "ARTSTORE_"
_NOT_SETTINGS = {"ARTSTORE_CONFIG", "ARTSTORE_HOME", "ARTSTORE_PLUGINS"}

# `backend = "s3"` beside `[backend.s3]` is what people write and what TOML forbids; this is the same, lawfully.
_SHORT_ROLE = re.compile(rf"^(\s*(?:{'|'.join(ROLES)}))(\s*=\s*[\"'])", re.MULTILINE)


class Tables(BaseModel, extra="allow"):
    """One table of settings a provider, checked when it is chosen: here, all that have one are."""

    def table(self, provider: str) -> dict[str, Any]:
        """The settings of one provider, unchecked."""
        return dict((self.__pydantic_extra__ or {}).get(provider) or {})

    def tables(self) -> list[str]:
        """The providers that have a table."""
        return list(self.__pydantic_extra__ or {})

    def chosen(self) -> list[str]:
        """The providers that are to be built."""
        return self.tables()


class Role(Tables):
    """The provider chosen for a role."""

    use: str

    def chosen(self) -> list[str]:
        return [self.use]


def _role(name: str) -> Any:
    return Field(default_factory=lambda: Role(use=DEFAULTS[name]))


class Settings(BaseModel, extra="forbid"):
    """One element."""

    element_id: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="remembered by the store"
    )
    display_name: str | None = Field(default=None, max_length=200, description="shown by /api/v1/info")
    mode: Mode = Field(default=Mode.EDIT, description="of a new element; later it remembers its own")
    backend: Role = _role("backend")
    naming: Role = _role("naming")
    cache: Role = _role("cache")
    wal: Role = _role("wal")
    auth: Role = _role("auth")
    observer: Tables = Tables()
    server: Server = Server()
    limits: Limits = Limits()
    log: Log = Log()
    plugins: Plugins = Plugins()

    @model_validator(mode="before")
    @classmethod
    def _uses_the_default(cls, raw: Any) -> Any:
        """A table for the default provider does not have to name it too."""
        return {
            name: {USE: DEFAULTS[name]} | value if name in DEFAULTS and isinstance(value, dict) else value
            for name, value in dict(raw).items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Settings, and where each came from (`sources`: dotted key -> file or variable)."""

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
    """Read the configuration. `overrides`: dotted key -> value, from the command line. Raises `ConfigError`."""
    environ = os.environ if environ is None else environ
    home = (home or Path(environ.get("ARTSTORE_HOME") or "artstore-data")).expanduser()
    home = Path(os.path.realpath(home))  # the processes of one home know each other by its name
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
    """`raw` as a `model`; `x_file` stands for the content of a file where the model has `x` and no `x_file`.

    Raises `ConfigError` that names the place and, for an unknown key, the one that was probably meant.
    """
    try:
        return model.model_validate(_with_files(model, raw, sources, under))
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False)[0]
        loc = [str(x) for x in first["loc"]]
        place = _place(under, loc, sources)
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
    """Or may hold one, as a whole table does, and an address with a user."""
    if not isinstance(value, str | int | float) or "@" in str(value):
        return True
    field = model.model_fields.get(loc[0]) if loc else None
    return "secret" in "".join(loc) or (
        field is not None and ("Secret" in repr(field.annotation) or not field.repr)
    )


def _with_files(
    model: type[BaseModel], raw: Mapping[str, Any], sources: Mapping[str, str], under: str
) -> dict[str, Any]:
    values = dict(raw)
    fields = model.model_fields
    for key, value in raw.items():
        below = fields[key].annotation if key in fields else None
        if isinstance(value, Mapping) and isinstance(below, type) and issubclass(below, BaseModel):
            if not issubclass(below, Tables):  # its tables are the providers', who know their own fields
                values[key] = _with_files(below, value, sources, f"{under}.{key}" if under else key)
        elif key not in fields and key.removesuffix("_file") in fields:
            path = Path(str(values.pop(key)))
            try:
                values[key.removesuffix("_file")] = path.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as e:
                place = _place(under, [key], sources)
                raise ConfigError(f"{path} cannot be read: {_why(e)}.", place=place) from None
    return values


def _why(error: OSError | UnicodeDecodeError) -> str:
    return os.strerror(error.errno or 0) if isinstance(error, OSError) else f"byte {error.start} is not UTF-8"


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """A sentence that says which of `known` was probably meant."""
    known = sorted(known)
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else f"There is: {', '.join(known) or 'nothing to set'}."


def _find_file(home: Path, config: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = config or (Path(environ["ARTSTORE_CONFIG"]) if environ.get("ARTSTORE_CONFIG") else None)
    usual = (home / "artstore.toml", Path("/etc/artstore/artstore.toml"))
    try:
        if named is not None and not named.is_file():
            raise ConfigError(f"There is no file {named}.", place="--config or ARTSTORE_CONFIG")
        return named or next((path for path in usual if path.is_file()), None)
    except OSError as e:
        cure = "Let this user read there, or name another: --home, --config."
        raise ConfigError(f"It cannot be read: {e.strerror}.", place=str(e.filename), cure=cure) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors put a mark before the first letter
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"It cannot be read: {_why(e)}.", place=str(path)) from None
    table = re.search(r"^\s*\[", text, re.MULTILINE)
    top = table.start() if table else len(text)
    text = _SHORT_ROLE.sub(rf"\1.{USE}\2", text[:top]) + text[top:]
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"It is not valid TOML: {e}.", place=str(path)) from None


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
        if path[0] in (*ROLES, "wal") and len(path) == 1:
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
    # `x` and `x_file` say the same: the later source counts, whichever way each put it.
    twin = key.removesuffix("_file") if key.endswith("_file") else f"{key}_file"
    for said in (key, twin):
        tree.pop(said, None)
        sources.pop(".".join([*path[:-1], said]), None)
    tree[key] = value
    sources[".".join(path)] = source


def _place(under: str, loc: list[str], sources: Mapping[str, str]) -> str:
    dotted = ".".join(x for x in [under, *loc] if x)
    below = (k for k in sources if k.startswith(f"{dotted}."))
    source = next((sources[k] for k in (dotted, f"{dotted}_file", *below) if k in sources), "")
    if source.startswith((_ENV, "--")):
        return source
    return f"{source}: {dotted}" if source else dotted


def _fields_at(model: type[BaseModel], loc: list[str]) -> Iterable[str]:
    fields = model.model_fields
    for part in loc:
        annotation = fields[part].annotation if part in fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ()
        fields = annotation.model_fields
    return fields
