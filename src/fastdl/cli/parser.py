# SPDX-License-Identifier: Apache-2.0
"""A parser whose help has topics, and that answers a wrong option with the nearest one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TypeVar

from fastdl.cli import streams

N = TypeVar("N")


class Parser(argparse.ArgumentParser):
    """Groups are topics: the title is ``topic: what it is about``."""

    where: str = ""
    """What the words are of, where it is not the command line."""
    common: tuple[str, ...] = ()
    """What ``--help`` alone shows, by destination; empty: everything."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", _formatter)
        super().__init__(*args, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but what is left over is an error here, with the nearest option."""
        for word in args or ():
            if word == "--":
                break
            # argparse takes a word with a blank in it for an argument, and would show its value.
            name, equals, _ = word.partition("=")
            if name.startswith("--") and equals and " " in word and not self._known(name):
                self.error(f"there is no option {_shown(word)}{self._nearest(word)}")
        found, rest = super().parse_known_args(args, namespace)
        at = rest.index("--") if "--" in rest else len(rest)
        if unknown := [word for word in rest[:at] if word.startswith("-")]:
            self.error(f"there is no option {_shown(unknown[0])}{self._nearest(unknown[0])}")
        return found, self._appended(found, rest[:at] + rest[at + 1 :])

    def _appended(self, found: argparse.Namespace, rest: list[str]) -> list[str]:
        """What is left of *rest*: sources may stand on both sides of an option, as curl's URLs."""
        last = [action for action in self._actions if not action.option_strings][-1:]
        if not rest or not last or last[0].nargs not in ("*", "+"):
            return rest
        setattr(found, last[0].dest, [*getattr(found, last[0].dest), *rest])
        return []

    def _known(self, name: str) -> bool:
        return " " in name or any(text.startswith(name) for text in self._option_string_actions)

    def _nearest(self, word: str) -> str:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        return meant(word.partition("=")[0], known)

    def error(self, message: str) -> NoReturn:
        """One sentence, and where to read on; exit code 2."""
        self.exit(
            2, f"fastdl: USAGE: {self.where}{message}\n(all options: {self.prog} --help all)\n"
        )

    def topics(self) -> dict[str, Any]:
        """Topic → its group, in order."""
        groups = self._action_groups[2:]  # behind argparse's own two
        return {(group.title or "").partition(":")[0]: group for group in groups}

    def show_help(self, topic: str | None) -> NoReturn:
        """Print help about *topic*; None: the common options."""
        topics = self.topics()
        if topic == "all" or (topic is None and not self.common):
            text = self.format_help()
        elif topic is None:
            listed = ", ".join(["all", *topics])
            text = self._help([("common options", self._common_actions())])
            text += f"\n{self.epilog or ''}\n\nmore: {self.prog} --help TOPIC, of {listed}\n"
        elif topic in topics:
            group = topics[topic]
            text = self._help([(str(group.title), group._group_actions)])
        else:
            self.error(f"there is no help topic {_shown(topic)}, only all, {', '.join(topics)}")
        self._print_message(text, sys.stdout)
        self.exit()

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help is output like any other; argparse would lose it in silence."""
        if file is sys.stdout and message:
            streams.say(message.rstrip("\n"))
        else:
            super()._print_message(message, file)

    def _common_actions(self) -> list[argparse.Action]:
        return [action for action in self._actions if action.dest in self.common]

    def _help(self, sections: Sequence[tuple[str, Sequence[argparse.Action]]]) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for title, actions in sections:
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        return formatter.format_help()


class Help(argparse.Action):
    """``-h`` and ``--help``, with an optional topic."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(
            option_strings,
            dest,
            nargs="?",
            default=argparse.SUPPRESS,
            metavar="TOPIC",
            help="help about one topic, or 'all'",
        )

    def __call__(self, parser: Any, _namespace: Any, values: Any, _option: Any = None) -> None:
        parser.show_help(values)


class Once(argparse.Action):
    """An option of which a second value would silently drop the first."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        if getattr(namespace, self.dest, None) is not None:
            parser.error(f"{option} is given twice")
        setattr(namespace, self.dest, values)


class Accepted(argparse.Action):
    """What other programs want said and is so here anyway."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(
            option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )

    def __call__(self, *_: Any) -> None:
        """Nothing to do."""


class Refused(argparse.Action):
    """An option of other programs that has no meaning here; the help says why."""

    def __init__(self, option_strings: Sequence[str], dest: str, const: str, **_: Any) -> None:
        super().__init__(
            option_strings,
            dest,
            nargs=0,
            const=const,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )

    def __call__(self, parser: Any, _namespace: Any, _values: Any, option: Any = None) -> None:
        parser.error(f"{option}: {self.const}")


def meant(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``: is X meant?`` with the nearest of *known*, or nothing where none is near."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f": is {close[0]} meant?" if close else ""


def _formatter(**options: Any) -> argparse.HelpFormatter:
    from fastdl.cli.formatter import Formatter  # for those who ask for help

    return Formatter(**options)


def _shown(word: str) -> str:
    return repr(word.partition("=")[0][:60])  # a value may be a secret
