"""Turn arguments into a call of a verb, by tyro, and its refusals into one line."""

import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable
from typing import Any

import tyro

from mrnn.cli.console import Usage


def parse(verb: Callable[..., int], arguments: list[str], program: str, description: str | None) -> int:
    """Call a verb with arguments; its exit code.

    Raises:
        Usage: They do not fit it.
    """
    started, stderr = False, sys.stderr

    @functools.wraps(verb)
    def run(*args: Any, **options: Any) -> int:
        nonlocal started
        started = True
        with contextlib.redirect_stderr(stderr):
            return verb(*args, **options)

    arguments = [_at_home(argument) for argument in arguments]
    refusal = io.StringIO()
    try:
        config = (tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands)
        with contextlib.redirect_stderr(refusal):  # until `run` begins
            return tyro.cli(run, args=arguments, prog=program, description=description, config=config)
    except SystemExit as stop:
        if not started and stop.code:
            raise Usage(_first_sentence(refusal.getvalue())) from None
        return stop.code if isinstance(stop.code, int) else 2
    except ValueError as error:
        if not started:  # a recipe that contradicts itself is refused while it is put together
            raise Usage(str(error)) from None
        raise


def _at_home(argument: str) -> str:
    """With `~` as the home folder, which shells leave alone in `--out=~/x` and between quotation marks."""
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{flag}{equals}{os.path.expanduser(value)}"  # noqa: PTH111


def _first_sentence(box: str) -> str:
    """The message of tyro's framed error, on one line."""
    message: list[str] = []
    for line in box.splitlines()[1:]:  # below the title
        text = line.strip("│╭╮╰╯ ")
        rule = not text.strip("─-")
        if rule and message:
            break
        if not rule:
            message.append(text)
    return " ".join(message) or "the arguments cannot be read"
