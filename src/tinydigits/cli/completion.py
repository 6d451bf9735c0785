r"""Print a script that lets the shell complete commands, options and names.

Run it once, and again after an update:
  tinydigits completion bash > \
      ~/.local/share/bash-completion/completions/tinydigits
  tinydigits completion zsh > ~/.zfunc/_tinydigits
  tinydigits completion fish > ~/.config/fish/completions/tinydigits.fish
For zsh, ~/.zshrc must say fpath+=~/.zfunc before it calls compinit.

Example:
  tinydigits completion bash
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from tinydigits.cli.output import stdout_console

SHELLS = ("bash", "zsh", "fish")
Candidates = dict[str, str | dict[str, str]]
"""What shtab takes: for each shell an expression, and in `preamble` the function that this calls."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that the script is for")


def run(arguments: argparse.Namespace) -> int:
    """Tell shtab what each argument takes, and print the script that it makes."""
    import shtab

    from tinydigits.cli.main import build_parser

    parser = build_parser()
    # argparse has no public way to its actions; shtab uses the same
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for action in (action for command in commands.choices.values() for action in command._actions):
        if (candidates := _candidates(action)) is not None:
            action.complete = candidates  # shtab looks for it there
    stdout_console().file.write(shtab.complete(parser, arguments.shell) + "\n")
    return 0


def _candidates(action: argparse.Action) -> Candidates | None:
    """What shtab offers for an argument; None: its `choices`, or nothing."""
    import shtab

    from tinydigits.inspection.budget import list_budgets
    from tinydigits.models.registry import list_models
    from tinydigits.training.recipes import list_recipes

    names = dict.fromkeys(("model", "words", "pattern"), list_models())
    names |= {"recipe": list_recipes(), "budget": list_budgets(), "data": ["auto", "mnist", "optdigits", "folder:"]}
    if action.dest in names:
        return _words(action.dest, names[action.dest], paths=action.dest in ("model", "words", "budget"))
    if action.metavar == "DIR":
        return dict(shtab.DIRECTORY)
    return dict(shtab.FILE) if action.type is Path else None


def _words(what: str, words: Sequence[str], *, paths: bool) -> Candidates:
    """Words, and, if `paths`, the paths on this machine too, in each shell's own language."""
    function, listed = f"_tinydigits_{what}", " ".join(map(quote, words))
    bash = f'compgen -W "{listed}" -- "$1"' + '; _shtab_compgen_files "$1"' * paths
    zsh = f"'{what}:{what}:({listed})'" + " 'files:file:_files'" * paths
    fish = f"printf '%s\\n' {listed}" + "; __fish_complete_path (commandline -ct)" * paths
    preamble = {
        "bash": f"{function}() {{ {bash}; }}",
        "zsh": f"{function}() {{ _alternative {zsh}; }}",
        "fish": f"function {function}; {fish}; end",
    }
    return {"bash": function, "zsh": function, "fish": f"({function})", "preamble": preamble}
