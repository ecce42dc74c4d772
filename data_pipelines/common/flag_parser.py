"""Flags of a command, taken from a dataclass or a function by tyro; help and errors as plain text.

tyro's own errors are drawn in boxes, which narrow terminals and logs break, and name no nearest flag where a required
one is missing too.
"""

import io
import re
import sys
import warnings
from argparse import Action, ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from difflib import get_close_matches
from itertools import pairwise, takewhile
from typing import Any, NoReturn, cast

import tyro

from data_pipelines.common.advice import as_word
from data_pipelines.common.command_help import filled, grouped_help
from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import closest
from data_pipelines.common.program import retyped

_CONFIG = (tyro.conf.PositionalMetavarFromFieldName,)
_FRAME = re.compile(r"^[│|]\s?|\s*[│|]$")
_RULE = re.compile(r"[\s─╰╯-]*")
_IN_OUR_WORDS = {
    r"^unrecognized options: (.*)": r"\1 is one word too many: it is not the value of a flag",
    r"^(.*?): could not convert string to float: (.*)": r"\1 is \2; it must be a number",
    r"^(.*?): invalid literal for int\(\) with base 10: (.*)": r"\1 is \2; it must be a whole number",
    r"^(.*?): could not find valid parse for arguments: (.*)": r"\1 does not take \2",
    r"^missing value for argument '(.*?)'.*": r"\1 needs a value",
    r"^(.*?): no type matching (?:\{None\}\|)?(.*?) could be instantiated from \[(.*)\]\.?": r"\1 is \3; it must be \2",
}
_KINDS = {"FLOAT": "a number", "INT": "a whole number"}
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*")
_ON = re.compile(r"^(--(?:.*\.)?)")
_NOT_FOR_USERS = re.compile(r"\s+Args:\n.*|\s+Raises InputError .*?(?=\n\n|$)", re.DOTALL)
_ALL = "--help-all"
_DEFAULT_OFF = " (default: False)"


def parse_flags(
    command: Callable[..., Any],
    arguments: Sequence[str],
    program: str,
    description: str | None = None,
    titles: Mapping[str, str] | None = None,
    often: Sequence[str] = (),
    **options: Any,
) -> Any:
    """What tyro makes of the arguments, or of `--help`, which ends the program.

    program: how it is called. titles: of the groups of flags in its help, by the beginning of tyro's names for them;
    others have the docstring of their dataclass. often: the flags that `--help` lists, where `--help-all` lists the
    others too. options: of `tyro.cli`. Raises InputError for arguments that it does not take, with the nearest that it
    does.
    """
    if asks_for_help(arguments):
        shown = () if _ALL in arguments else often
        text = flag_help(flag_parser(command, **options), program, description or command.__doc__, titles or {}, shown)
        print(retyped(text))
        sys.exit()
    written = io.StringIO()
    try:
        with redirect_stderr(written):
            return tyro.cli(command, args=arguments, prog=program, config=_CONFIG, **options)
    except SystemExit:
        box, written = written.getvalue(), io.StringIO()
        _refuse(flag_parser(command, **options), arguments, program, box)
    finally:
        sys.stderr.write(written.getvalue())


def flag_parser(command: Callable[..., Any], **options: Any) -> ArgumentParser:
    """The parser of a command, to be asked for its flags; tyro itself parses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser: Any = tyro.extras.get_parser(command, config=_CONFIG, **options)
    return cast(ArgumentParser, parser)


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether `-h`, `--help` or `--help-all` is among them."""
    return not {"-h", "--help", _ALL}.isdisjoint(arguments)


def flag_help(
    parser: ArgumentParser,
    program: str,
    description: str | None,
    titles: Mapping[str, str],
    often: Sequence[str] = (),
) -> str:
    """Usage, description, and the flags in groups, those that must be given first; of the others only those used
    `often`, if any are named."""
    groups: dict[str, dict[str, str]] = {}
    for title, action in _titled(parser, titles):
        if not often or action.required:
            groups.setdefault(title, {})[_spelling(action)] = _help_of(action)
        elif not {*often}.isdisjoint(action.option_strings):
            groups.setdefault("used most", {})[_spelling(action)] = _help_of(action)
    after = f"All {len(parser._actions)} flags: {program} {_ALL}" if often else ""
    required = [action for action in parser._actions if action.required and action.option_strings]
    words = [program, *(_spelling(action) for action in [*required, *_positionals(parser)]), "[FLAGS]"]
    text = f"usage: {' '.join(words)}\n\n{filled(_NOT_FOR_USERS.sub('', description or ''))}"
    first = [title for title in ("arguments", "required") if title in groups]
    return grouped_help(text, {title: groups[title] for title in [*first, *groups]}, after)


def _titled(parser: ArgumentParser, titles: Mapping[str, str]) -> Iterator[tuple[str, Action]]:
    for group in parser._action_groups:
        about = (group.description or "flags").strip().split("\n\n")[0].rstrip(".")
        for action in group._group_actions:
            if "--help" in action.option_strings:
                continue
            named = max((name for name in titles if action.dest.startswith(name)), key=len, default=None)
            title = "required" if action.required else titles[named] if named is not None else about
            yield (title if action.option_strings else "arguments"), action


def _positionals(parser: ArgumentParser) -> list[Action]:
    return [action for action in parser._actions if not action.option_strings]


def _spelling(action: Action) -> str:
    """Such as "--out PATH" or "--force"; "--[no-]flip" for a switch that is on by default."""
    flags = action.option_strings
    if action.nargs == 0:
        return flags[0] if _is_off(action) else _ON.sub(r"\1[no-]", flags[0])
    kinds = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar or ())
    kinds = re.sub(r"\{([^{} ]*)\}", lambda found: found[1].replace(",", "|"), kinds)
    kinds = re.sub(r"\[(\S+) \[\1 \.\.\.\]\]", r"\1 ...", kinds)
    kinds = re.sub(r"^None\|(\S+)$", r"\1|None", kinds)  # what is mostly given comes first
    return " ".join([*flags[:1], kinds])


def _help_of(action: Action) -> str:
    text = (action.help or "").replace("%%", "%").removesuffix(" (required)").removeprefix("(required)")
    for nothing in ("(default: )", "(default: '')", *([_DEFAULT_OFF] if _is_off(action) else [])):
        text = text.removesuffix(nothing)
    return text.strip()


def _is_off(action: Action) -> bool:
    return action.nargs == 0 and f" {action.help}".endswith(_DEFAULT_OFF)


def _refuse(parser: ArgumentParser, arguments: Sequence[str], program: str, box: str) -> NoReturn:
    known = [flag for action in parser._actions for flag in action.option_strings]
    unknown = [word for word in map(_flag_of, arguments) if word is not None and word not in known]
    if unknown:
        raise InputError(f"unknown flag {unknown[0]}{_nearest_flag(unknown[0], known, program)}")
    if wrong := _wrong_choice(parser, arguments):
        raise InputError(wrong)
    if "Missing from" in box and (lacking := _lacking(parser, arguments)):
        *others, last = lacking
        must = f"{', '.join(others)} and {last}" if others else last
        raise InputError(f"{must} must be given{_meant_for(lacking, parser, arguments)}; {program} --help tells more")
    if joined := _numbers_in_one_word(parser, arguments):
        raise InputError(joined)
    if several := _second_value(parser, arguments, program):
        raise InputError(several)
    raise InputError(f"{_words_of(box)}; {program} --help tells more")


def _flag_of(word: str) -> str | None:
    """The flag that a word gives, as it is spelt in help; None for a value, such as a negative number."""
    name = word.split("=")[0].replace("_", "-")
    return name if re.match(r"--?[A-Za-z]", name) and name not in ("-inf", "-nan", "-infinity") else None


def _nearest_flag(wrong: str, known: Sequence[str], program: str) -> str:
    last = wrong.lstrip("-").rpartition(".")[2]
    alike = [flag for flag in known if flag.rpartition(".")[2].lstrip("-") == last]
    names = {flag.lstrip("-"): flag for flag in known}  # the dashes are alike in all
    close = alike or [names[name] for name in get_close_matches(wrong.lstrip("-"), names, n=1)]
    return f"; did you mean {close[0]}?" if close else f"; {program} --help lists those there are"


def _wrong_choice(parser: ArgumentParser, arguments: Sequence[str]) -> str | None:
    choices = {flag: action.choices for action in parser._actions for flag in action.option_strings if action.choices}
    for flag, value in pairwise(_apart(arguments)):
        known = [str(choice) for choice in choices.get(_flag_of(flag) or "", ())]
        if known and value not in known:
            close = closest(value, known)
            meant = f"; did you mean {close}?" if close else ""
            return f"{flag} is {value!r}, which is none of {', '.join(known)}{meant}"
    return None


def _apart(arguments: Sequence[str]) -> list[str]:
    """The words, with --flag=value as two."""
    return [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]


def _numbers_in_one_word(parser: ArgumentParser, arguments: Sequence[str]) -> str | None:
    """Of a flag that takes several, how to separate those that commas join."""
    lists = {flag for each in parser._actions if each.nargs not in (None, 0, 1, "?") for flag in each.option_strings}
    flag = None
    for word in _apart(arguments):
        flag, numbers = _flag_of(word) or flag, word.split(",")
        if flag in lists and len(numbers) > 1 and all(map(_NUMBER.fullmatch, numbers)):
            return f"{flag} is {word!r}; separate its values by spaces: {flag} {' '.join(numbers)}"
    return None


def _second_value(parser: ArgumentParser, arguments: Sequence[str], program: str) -> str | None:
    """Of a flag that takes one value and has several, which they are, and the flag of that name that takes them."""
    if _positionals(parser):
        return None
    takes = {flag: action.nargs for action in parser._actions for flag in action.option_strings}
    words = _apart(arguments)
    for place, flag in enumerate(words[:-2]):
        values = list(takewhile(lambda word: _flag_of(word) is None, words[place + 1 :]))
        if takes.get(_flag_of(flag) or "", 0) in (None, 1, "?") and len(values) > 1:
            plural = f"{_flag_of(flag)}s"
            hint = f"{program} --help tells more"
            if plural in takes:
                hint = f"did you mean {plural} {' '.join(map(as_word, values))}?"
            return f"{flag} takes one value, and was given {', '.join(values)}; {hint}"
    return None


def _lacking(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The required flags that are not there; where all are, the arguments without one."""
    given = {_flag_of(word) for word in arguments}
    required = [action for action in parser._actions if action.required and action.option_strings]
    lacking = [action.option_strings[0] for action in required if given.isdisjoint(action.option_strings)]
    return lacking or [_spelling(action) for action in _positionals(parser) if action.required]


def _meant_for(lacking: Sequence[str], parser: ArgumentParser, arguments: Sequence[str]) -> str:
    """The part of a message about words before the first flag, of a command that takes none: their flags."""
    loose = list(takewhile(lambda word: _flag_of(word) is None, arguments))
    if _positionals(parser) or len(loose) != len(lacking):
        return ""
    return f"; did you mean {' '.join(f'{flag} {as_word(word)}' for flag, word in zip(lacking, loose, strict=True))}?"


def _words_of(box: str) -> str:
    """What one of tyro's boxes says first, on one line and in our words."""
    sentences: list[str] = []
    for line in box.splitlines()[1:]:  # below its title
        if _RULE.fullmatch(text := _FRAME.sub("", line)):
            if sentences:
                break
            continue
        sentences.append(text.strip())
    text = " ".join(sentences).removeprefix("Error parsing ")
    for theirs, ours in _IN_OUR_WORDS.items():
        if found := re.search(theirs, text, flags=re.IGNORECASE):
            wrong, must_be, kind = found.expand(ours).partition("; it must be ")
            return f"{wrong}{must_be}{_KINDS.get(kind, kind)}"
    return f"{text[:1].lower()}{text[1:]}"
