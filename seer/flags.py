"""A verb's options, written once: as the fields of a dataclass, and read by the command line from
there.

A field with a `help` is an option of the verb: its name or `flag`, its type, its default and its
help are the field's. A field that is a dataclass itself stands for the options of that.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from seer.schema import default_of, flag_of

HELP = "help"  # the metadata's key, of a dataclass's field


def flags(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace a verb's parameter whose type is a dataclass by one option for each field with a help,
    in their order; the verb is called with the dataclass that they fill.
    """
    written = inspect.signature(verb)
    (options,) = (p for p in written.parameters.values() if is_dataclass(p.annotation))
    parameters: list[inspect.Parameter] = []
    for parameter in written.parameters.values():
        if parameter is options:
            parameters += _parameters(options.annotation)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(verb)
    def called(**given: Any) -> None:
        own = {name: given[name] for name in written.parameters if name in given}
        verb(**own, **{options.name: _filled(options.annotation, given)})

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    return called


def _parameters(schema: type) -> Iterator[inspect.Parameter]:
    """What Typer reads of a verb, for each option of a dataclass."""
    hints = get_type_hints(schema)
    for declared in fields(schema):
        hint = hints[declared.name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _parameters(hint)
        elif HELP in declared.metadata:
            yield _parameter(declared, hint)


def _parameter(declared: Field, hint: Any) -> inspect.Parameter:
    default = default_of(declared)
    names = [flag_of(declared)]
    if hint is bool and default:
        names = [f"{names[0]}/--no-{names[0].removeprefix('--')}"]
    if get_origin(hint) is Sequence:  # given once for each item
        (item,) = get_args(hint)
        hint = list[item] | None  # type: ignore[valid-type]
        default = None
    option = typer.Option(*names, help=declared.metadata[HELP])
    return inspect.Parameter(
        declared.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[hint, option],
    )


def _filled(schema: type, given: dict[str, Any]) -> Any:
    """The dataclass, with what the command line gave."""
    hints = get_type_hints(schema)
    values = {}
    for declared in fields(schema):
        hint = hints[declared.name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            values[declared.name] = _filled(hint, given)
        elif given.get(declared.name) is not None:
            values[declared.name] = given[declared.name]
    return schema(**values)
