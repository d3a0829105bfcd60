# SPDX-License-Identifier: Apache-2.0
"""Virtual machines: what a host is asked to make of one, and what it reports.

A machine belongs to one host for as long as it lives. Each order for it has a higher fence than
all earlier ones; the lock of its root disk, which all hosts of a shared pool see, compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastdl.wire.limits import Count, Id, Line, Text, Whole

CONSOLE_MAX = 64 << 10
"""Characters of a console's output in one response."""


class MachineState(StrEnum):
    """The state that a machine should have, or has."""

    RUNNING = "running"
    STOPPED = "stopped"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineArgs:
    """Bring *machine* into *state*. Whatever exists of it already is kept and completed.

    *pool*, *disk*: where its root disk is, of *disk_size* bytes (0 = as large as the template's);
    *template*, *volume*: the copy in the same pool that the disk is made of, or, with *iso*, that
    is in its drive. *first*: a deployment, which leaves nothing if it fails. *forced*: switch it
    off at once; otherwise it is asked first, and has *patience* seconds.
    """

    machine: Id
    state: Annotated[str, Text(16)]
    name: Annotated[str, Text(255)] = ""
    pool: Id
    disk: Annotated[str, Text(128, 1)]
    disk_size: Count = 0
    template: Id
    volume: Annotated[str, Text(128, 1)]
    iso: bool = False
    processors: Annotated[int, Whole(1, 256)] = 1
    memory: Count = 512 << 20
    controller: Annotated[str, Text(16)] = ""
    first: bool = False
    forced: bool = False
    patience: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDone:
    """The machine is in *state*. *missing*: why the template's copy cannot be used; nothing was
    done then. *accelerated*: by the processor (KVM), not emulated."""

    state: Annotated[str, Text(16)]
    missing: Line = ""
    disk_size: Count = 0
    accelerated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineInfo:
    """A machine that the host has, after the order of *fence*."""

    machine: Id
    fence: Count
    running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleArgs:
    """Report the end of what *machine* wrote to its serial console: *most* bytes."""

    machine: Id
    most: Annotated[int, Whole(1, CONSOLE_MAX)] = CONSOLE_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleDone:
    """*text*: without control characters other than line ends and tabs."""

    text: Annotated[str, Text(CONSOLE_MAX)] = ""
