"""Settings as people write them: YAML files, ``key=value`` on the command line, and the annotated defaults.

What can be set, and its default, stands in :mod:`triptych.config`; here is only the way from text to that and back.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from triptych.config import RANGES, STAGES, Settings
from triptych.errors import InputError, first_line

Config = TypeVar("Config", bound=Settings)

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", Path: "a path"}
BOUNDS = (
    (annotated_types.Gt, "gt", "above {}"),
    (annotated_types.Ge, "ge", "of at least {}"),
    (annotated_types.Lt, "lt", "below {}"),
    (annotated_types.Le, "le", "of at most {}"),
    (annotated_types.MultipleOf, "multiple_of", "that divides by {}"),
    (annotated_types.MinLen, "min_length", "of {} or more"),
)


def load_config(kind: type[Config], file: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The defaults, changed by a YAML file, changed by ``key=value`` texts.

    Parameters
    ----------
    kind : the class of settings wanted, e.g. ``SimulateConfig``
    file : YAML; may set any part of the settings
    overrides : such as ``acquisition.defocus_um=[2, 4]``; the key may be dotted, the value is YAML

    Raises
    ------
    InputError
        One sentence for an unreadable file, a key that does not exist (with the one that may be meant), or a value that
        does not fit (with what would).
    """
    data: dict[str, Any] = kind().model_dump()
    if file is not None:
        _merge(kind, data, _read_yaml(file), prefix="", source=f"the config file {file}")
    for override in overrides:
        _apply_override(kind, data, override)
    return check_settings(kind, data)


def check_settings(kind: type[Config], data: object) -> Config:
    """Settings from plain data; InputError with one sentence for what does not fit."""
    if not isinstance(data, dict):
        raise InputError(f"the settings are {str(data)[:40]!r}, but names with their values were expected")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise InputError("; ".join(_explain(kind, error))) from error


def stage_settings(stage: str) -> type[Settings]:
    """The class of settings of a stage, by the stage's name."""
    if stage not in STAGES:
        raise InputError(f"there is no stage {stage!r}{_suggest(stage, STAGES)}: stages with settings are {', '.join(STAGES)}")
    return STAGES[stage]


def format_defaults(kind: type[Settings]) -> str:
    """The defaults of some settings as YAML, each with a comment; :func:`load_config` reads it back to the same."""
    text = "\n".join(_format_fields(kind(), indent=""))
    return text.replace("\n\n\n", "\n\n").strip("\n") + "\n"


# ---------------------------------------------------------------- reading


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that is given twice is an error; plain YAML would silently drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
            keys.append(key)
        return super().construct_mapping(node, deep=deep)


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{source} is not valid YAML: {error.problem}{line}; correct it") from error
    except yaml.YAMLError as error:
        raise InputError(f"{source} is not valid YAML: it holds characters that YAML forbids; remove them") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise InputError(f"{source} cannot be read as settings ({first_line(error)}): correct it") from error


def _read_yaml(file: Path) -> dict[str, Any]:
    source = f"the config file {file}"
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{source} does not exist: give the path of a YAML file, such as `triptych config STAGE > FILE` writes") from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise InputError(f"{source} is not a text file: give a YAML file, such as `triptych config STAGE > FILE` writes") from error
    content = _parse_yaml(text, source)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{source} holds {_show(content)}, but `key: value` lines were expected: see `triptych config STAGE`")
    return content


def _merge(kind: type[Settings], into: dict[str, Any], given: Mapping[Any, Any], prefix: str, source: str) -> None:
    """Write what is given over the defaults, group by group; lists and tables of numbers are replaced whole."""
    for key, value in given.items():
        name = f"{prefix}{key}"
        if key not in kind.model_fields:
            raise _unknown_key(kind, str(key), prefix, source)
        group = _group(kind.model_fields[key])
        if group is None:
            into[key] = _read_none(kind.model_fields[key], value)
        elif isinstance(value, dict):
            _merge(group, into[key], value, f"{name}.", source)
        elif value is not None:  # `group:` with nothing under it changes nothing
            inside = ", ".join(group.model_fields)
            raise InputError(f"{name} is {_show(value)} in {source}, but it is a group of settings ({inside}): set one of them")


def _apply_override(kind: type[Settings], data: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    source = f"--set {override}"
    if not equals or not dotted.strip():
        raise InputError(f"--set got {override!r}, but key=value was expected, as in --set seed=7")
    if not text.strip():  # as an empty variable of a shell leaves it, which YAML would take for null
        raise InputError(f"--set got {override!r}, which has no value: give one, as in --set seed=7, or null where none is meant")
    *groups, last = dotted.strip().split(".")
    prefix = ""
    for position, name in enumerate(groups):
        if name not in kind.model_fields:
            raise _unknown_key(kind, name, prefix, source, rest=[*groups[position + 1 :], last])
        group = _group(kind.model_fields[name])
        data = data[name]
        if group is None:
            _apply_entry(kind.model_fields[name], data, f"{prefix}{name}", ".".join([*groups[position + 1 :], last]), text, source)
            return
        kind, prefix = group, f"{prefix}{name}."
    _merge(kind, data, {last: _parse_yaml(text, source)}, prefix, source)


def _apply_entry(field: FieldInfo, table: Any, name: str, key: str, text: str, source: str) -> None:
    """Set one entry of a table, such as ``acquisition.ctf_correction.none=0`` or ``radius.ribosome_70s=120``."""
    if not isinstance(table, dict):
        raise InputError(f"{source} asks for {key!r} inside {name}, but that has nothing inside: it is {_describe_field(field)}")
    kind = get_args(field.annotation)[0]
    known = [str(value) for value in get_args(kind)]  # the keys that there are, if not any name will do
    if known and key not in known:
        raise InputError(f"{source}: {name} has no entry {key!r}{_suggest(key, known)}: it is {_describe_field(field)}")
    table[_parse_yaml(key, source) if kind is int else key] = _parse_yaml(text, source)


def _read_none(field: FieldInfo, value: Any) -> Any:
    """The word none, which the descriptions use, is null where null is possible; never a folder called "none"."""
    if isinstance(value, str) and value.lower() in ("none", "null") and types.NoneType in get_args(field.annotation):
        return None
    return value


# ---------------------------------------------------------------- explaining


def _unknown_key(kind: type[Settings], key: str, prefix: str, source: str, rest: Sequence[str] = ()) -> InputError:
    asked = ".".join([f"{prefix}{key}", *rest])
    known = [f"{prefix}{name}" for name in _all_keys(kind)]
    stage = next((name for name, settings in STAGES.items() if settings is kind), "STAGE")
    # a setting of that very name in another group is meant more likely than one that is spelled alike
    namesakes = [name for name in known if name.rpartition(".")[2] == asked.rpartition(".")[2]]
    hint = f", did you mean {namesakes[0]!r}" if namesakes else _suggest(asked, known)
    return InputError(f"{source}: there is no setting {asked!r}{hint}: `triptych config {stage}` lists them all")


def _suggest(word: str, known: Sequence[str] | Mapping[str, object]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}" if close else ""


def _all_keys(kind: type[Settings], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield f"{prefix}{name}"
        group = _group(field)
        if group is not None:
            yield from _all_keys(group, f"{prefix}{name}.")


def _explain(kind: type[Settings], error: ValidationError) -> list[str]:
    """One clause for each setting that does not fit, however many complaints pydantic has about it."""
    clauses: dict[str, str] = {}
    for problem in error.errors():
        name, field = _find_field(kind, problem["loc"])
        if problem["type"] == "value_error":  # raised by a validator of ours, which knows best what to say
            prefix = f"{name}." if name and field is None else ""
            clauses.setdefault(name, prefix + problem["msg"].removeprefix("Value error, "))
        elif field is not None:
            clauses.setdefault(name, f"{name} is {_describe_value(problem, name)}, but must be {_describe_field(field)}")
        else:
            clauses.setdefault(name, f"{name}: {problem['msg']}")
    return list(clauses.values())


def _find_field(kind: type[Settings], location: Sequence[str | int]) -> tuple[str, FieldInfo | None]:
    """The dotted name and the field that pydantic's location lies in; groups only: no field."""
    names: list[str] = []
    for part in location:
        if part not in kind.model_fields:
            break
        field = kind.model_fields[str(part)]
        names.append(str(part))
        group = _group(field)
        if group is None:
            return ".".join(names), field
        kind = group
    return ".".join(names), None


def _describe_value(problem: ErrorDetails, name: str) -> str:
    """What was given for the setting; for a part of a list, that part."""
    places = [part for part in problem["loc"][name.count(".") + 1 :] if isinstance(part, int)]
    shown = _show(problem["input"])
    return f"{shown} in place {places[0] + 1}" if places and problem["type"] != "missing" else shown


def _show(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else _to_yaml(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _describe_field(field: FieldInfo) -> str:
    return _describe_type(field.annotation, _describe_bounds(field.metadata))


def _describe_bounds(limits: Sequence[Any]) -> list[str]:
    plain = [limit for given in limits for limit in (given.metadata if isinstance(given, FieldInfo) else [given])]
    words = [text.format(_show(getattr(limit, name))) for limit in plain for kind, name, text in BOUNDS if isinstance(limit, kind)]
    return ["from 0 to 1"] if words == ["of at least 0", "of at most 1"] else words


def _describe_type(kind: Any, bounds: Sequence[str] = ()) -> str:
    """A type in words: "a whole number above 0", "one of dark, bright, auto", "a list [low, high] of 2 numbers"."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _describe_type(parts[0], _describe_bounds(parts[1:]))
    if origin in (Union, types.UnionType):
        return _describe_union(parts, bounds)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple:
        return _describe_list(kind, parts, bounds)
    if origin is dict:
        keys = f" with keys of {', '.join(map(str, get_args(parts[0])))}" if get_args(parts[0]) else ""
        return f"a table {{key: {_describe_type(parts[1])}}}{keys}"
    return " ".join([KINDS.get(kind, "a value"), *([" and ".join(bounds)] if bounds else [])])


def _describe_union(parts: Sequence[Any], bounds: Sequence[str]) -> str:
    choices = [str(word) for part in parts if get_origin(part) is Literal for word in get_args(part)]
    others = [_describe_type(part, bounds) for part in parts if part is not types.NoneType and get_origin(part) is not Literal]
    return " or ".join((["null"] if types.NoneType in parts else []) + others + ([f"one of {', '.join(choices)}"] if choices else []))


def _describe_list(kind: Any, parts: Sequence[Any], bounds: Sequence[str]) -> str:
    if parts[-1] is Ellipsis:
        return " ".join(["a list", *bounds, f"[...], each {_describe_type(parts[0])}"])
    form = "[low, high]" if kind in RANGES else f"[{', '.join(['...'] * len(parts))}]"
    return f"a list {form}, each {_describe_type(parts[0])}"


# ---------------------------------------------------------------- writing


def _format_fields(settings: Settings, indent: str) -> Iterator[str]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield ""
            yield f"{indent}# {field.description}"
            yield f"{indent}{name}:"
            yield from _format_fields(value, indent + "  ")
            yield ""
        else:
            yield f"{indent}# {field.description} ({_describe_field(field)})"
            yield f"{indent}{name}: {_to_yaml(settings.model_dump(mode='json')[name])}"


def _to_yaml(value: Any) -> str:
    """One line of YAML."""
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True)
    return text.strip()[1:-1]


def _group(field: FieldInfo) -> type[Settings] | None:
    """The settings inside a field that is a group of settings."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None
