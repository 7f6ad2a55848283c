"""Completion of commands, options and configuration keys by your shell: prints what the shell is to read.

  source <(videodit completion bash)                                           in ~/.bashrc
  source <(videodit completion zsh)                                            in ~/.zshrc, after compinit
  videodit completion fish > ~/.config/fish/completions/videodit.fish

The shell asks this command at each tab, so options are always those of the version that is installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module
from unittest.mock import patch

from videodit.command import command
from videodit.commands import COMMANDS
from videodit.terminal import Parser

# Each asks `videodit completion SHELL --words WORD ...` with what stands behind `videodit`, up to the cursor; a line of
# the answer is a word, a tab, and what it does. Where there is none the shell completes names of files.
SHELLS = {
    "bash": r"""_videodit() {
    local line found=()
    while IFS= read -r line; do found+=("${line%%$'\t'*}"); done \
        < <(videodit completion bash --words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    COMPREPLY=("${found[@]}")
    [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace
    return 0
}
complete -o default -F _videodit videodit
""",
    "zsh": r"""#compdef videodit
_videodit() {
    local line end=' '
    local -a names told
    for line in "${(@f)$(videodit completion zsh --words "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] || continue
        names+=("${line%%$'\t'*}") told+=("${line/$'\t'/  }")
        [[ $line == *=$'\t'* ]] && end=''
    done
    if (( ${#names} )); then compadd -l -S "$end" -d told -- "${names[@]}"
    else _files; fi
}
compdef _videodit videodit
""",
    "fish": r"""function __videodit
    set -l words (commandline -opc)[2..] (commandline -ct)
    set -l found (videodit completion fish --words $words 2>/dev/null)
    if test (count $found) -gt 0
        string join \n -- $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c videodit -f -a '(__videodit)'
""",
}


@command
def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("shell", choices=list(SHELLS), help="whose language it is in")
    parser.add_argument("--words", nargs=argparse.REMAINDER, help="what the shell asks: what may stand at the last")
    args = parser.parse_args()
    if args.words is None:
        print(SHELLS[args.shell], end="")
    for word, what in candidates(args.words) if args.words is not None else ():
        print(word, what, sep="\t")
    return 0


def candidates(words: list[str]) -> Iterator[tuple[str, str]]:
    """What the last of the words behind `videodit` may become, each with what it does; nothing: a file's name."""
    *before, begun = words or [""]
    for word, what in _known(before, begun):
        if word.startswith(begun):
            yield word, " ".join(what.split())


def _known(before: list[str], begun: str) -> Iterator[tuple[str, str]]:
    if not before:
        yield from COMMANDS.items()
        yield from (("--help", "what there is"), ("--version", "of the package"))
    elif before[0] in COMMANDS and begun != "=" and before[-1] != "=":  # where bash cuts key=value
        parser = parser_of(before[0])
        asked = parser._option_string_actions.get(before[-1])
        if asked is not None and asked.nargs != 0:
            yield from ((str(choice), "") for choice in asked.choices or ())
        elif begun.startswith("-"):
            told = parser._get_formatter()._expand_help  # which puts defaults in
            yield from ((name, told(one) if one.help else "") for name, one in parser._option_string_actions.items())
        else:
            for one in parser._get_positional_actions():
                yield from ((str(choice), "") for choice in one.choices or () if choice not in before)
                if one.dest == "overrides":
                    yield from _keys()


def parser_of(name: str) -> argparse.ArgumentParser:
    """A command's parser, taken when it is asked to parse: what follows is not run."""

    class Asked(BaseException):
        pass

    def ask(parser: Parser, *_: object) -> None:
        raise Asked(parser)

    with patch.object(Parser, "parse_args", ask):
        try:
            import_module(f"videodit.commands.{name.replace('-', '_')}").main()
        except Asked as asked:
            return asked.args[0]
    raise AssertionError(f"videodit {name} parses nothing")


def _keys() -> Iterator[tuple[str, str]]:
    """The configuration's, each section's behind a dot."""
    from videodit.config import Run
    from videodit.config.section import Section

    for name, field in Run.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from ((f"{name}.{key}=", one.description or "") for key, one in field.annotation.model_fields.items())
        else:
            yield f"{name}=", field.description or ""
