r"""Print a script that lets the shell complete commands, options and names.

Once, and again after an update:
  tinydigits completion bash > \
      ~/.local/share/bash-completion/completions/tinydigits
  tinydigits completion zsh > ~/.zfunc/_tinydigits
  tinydigits completion fish > ~/.config/fish/completions/tinydigits.fish
For zsh, ~/.zshrc says fpath+=~/.zfunc before it calls compinit.

Example:
  tinydigits completion bash
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from tinydigits.cli.output import stdout_console

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("shell", choices=SHELLS, help="which shell the script is for")


def run(arguments: argparse.Namespace) -> int:
    """Describe to shtab what each argument takes, and print the script that it makes."""
    import shtab

    from tinydigits.cli.main import _parser

    parser = _parser()
    for action in _actions(parser):
        if (candidates := _candidates(action)) is not None:
            action.complete = candidates  # type: ignore[attr-defined]  # where shtab looks for it
    stdout_console().file.write(shtab.complete(parser, arguments.shell) + "\n")
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # argparse has no public way to them; shtab takes the same
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action


def _candidates(action: argparse.Action) -> dict[str, Any] | None:
    """What shtab shall offer for an argument; None: its `choices`, or nothing."""
    import shtab

    from tinydigits.models.budget import list_budgets
    from tinydigits.models.registry import list_models
    from tinydigits.training.recipes import list_recipes

    names: dict[str, Callable[[], list[str]]] = {
        "model": list_models,
        "words": list_models,
        "pattern": list_models,
        "recipe": list_recipes,
        "budget": list_budgets,
        "data": lambda: ["auto", "mnist", "optdigits", "folder:"],
    }
    if action.dest in names:
        return _words(action.dest, names[action.dest](), paths=action.dest in ("model", "words", "budget"))
    if action.metavar == "DIR":
        return dict(shtab.DIRECTORY)
    return dict(shtab.FILE) if action.type is Path else None


def _words(what: str, words: Sequence[str], *, paths: bool) -> dict[str, Any]:
    """Some words, and if wanted the paths on this machine too, in each shell's own language."""
    function = f"_tinydigits_{what}"
    listed = " ".join(map(quote, words))
    bash = [f'compgen -W "{listed}" -- "$1"']
    zsh = [f"'{what}:{what}:({listed})'"]
    fish = [f"printf '%s\\n' {listed}"]
    if paths:
        bash.append('_shtab_compgen_files "$1"')
        zsh.append("'files:file:_files'")
        fish.append("__fish_complete_path (commandline -ct)")
    return {
        "bash": function,
        "zsh": function,
        "fish": f"({function})",
        "preamble": {
            "bash": f"{function}() {{ {'; '.join(bash)}; }}",
            "zsh": f"{function}() {{ _alternative {' '.join(zsh)}; }}",
            "fish": f"function {function}; {'; '.join(fish)}; end",
        },
    }
