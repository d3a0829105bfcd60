# SPDX-License-Identifier: Apache-2.0
"""How a command is declared, and how a request is read by its declaration."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiConflictError, ApiParamError
from fastdl.manager.api import filters
from fastdl.manager.api.context import ApiContext
from fastdl.manager.api.filters import SHOWS, Contains, Narrowing
from fastdl.manager.events import Event
from fastdl.manager.ledger import accounts
from fastdl.manager.ledger.engine import Work

T = TypeVar("T")

CARRIED_OUT: Final = "This signed request was carried out before"
LIST_MAX: Final = 1000
ROOT_DOMAIN: Final = str(uuid.uuid5(uuid.NAMESPACE_DNS, "root.domain.fastdl.internal"))
"""The id of the one domain."""
_DAY_S: Final = 24 * 3600.0
MAP_MAX: Final = 64
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_MAP_KEY: Final = re.compile(r"([a-z]+)\[(\d{1,4})\]\.(.+)", re.IGNORECASE | re.DOTALL)


class Kind(StrEnum):
    """CloudStack's names of parameter types."""

    STRING = "string"
    UUID = "uuid"
    INTEGER = "integer"
    NUMBER = "float"
    BOOLEAN = "boolean"
    DATE = "date"
    LIST = "list"
    MAP = "map"


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter. *length*: of a string; *least*, *most*: of a whole number; *choices*: the
    allowed values of a string; *narrows*: how it narrows a list."""

    name: str
    kind: Kind = Kind.STRING
    text: str = ""
    required: bool = False
    length: int = 255
    default: Any = None
    least: int = -(1 << 31)
    most: int = (1 << 31) - 1
    choices: tuple[str, ...] = ()
    narrows: Narrowing | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a response."""

    name: str
    type: str = "string"
    text: str = ""


JOB: Final = (Field("jobid"),)
"""The response of a command whose work continues."""


@dataclass(frozen=True, slots=True)
class User:
    """The caller, and their address."""

    id: str
    username: str
    account: str
    admin: bool
    address: str = ""
    cookie: str | None = None
    """Of the session that the request came in; None for a signed one."""


@dataclass(slots=True, kw_only=True)
class Call:
    """One request: caller, command and arguments (by lower-case name)."""

    context: ApiContext
    user: User
    command: Command
    args: Mapping[str, Any]
    once: tuple[str, float] | None = None
    """(claim, until when it could be sent again) of a request that takes effect once; None as
    soon as it did."""
    _noted: dict[Event, None] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """Return an argument, None if it was not given."""
        return self.args.get(name)

    @property
    def now(self) -> float:
        """The time of this request."""
        return self.context.clock.time()

    async def write(self, work: Work[T]) -> T:
        """Run *work* in a transaction that also holds what it ``note``s, and the claim of a
        request that takes effect once: after a crash all of it is there, or nothing.

        ApiConflictError where a copy of the request took effect before.
        """

        async def whole(tx: AsyncConnection) -> T:
            self._noted.clear()
            if self.once is not None:
                claim, until = self.once
                if not await accounts.claim_request(tx, claim, until=until):
                    raise ApiConflictError(CARRIED_OUT)
            return await work(tx)

        done = await self.context.ledger.write(whole)
        self.once = None
        self.context.events.publish(*self._noted)
        return done

    async def note(
        self,
        tx: AsyncConnection,
        type_: str,
        text: str,
        resource: str | None = None,
        *,
        level: str = "INFO",
    ) -> None:
        """Store an event of this caller's with the change that it tells of."""
        event = Event(
            type=type_,
            description=text,
            level=level,
            account=self.user.account,
            resource=resource,
            username=self.user.username,
            address=self.user.address,
        )
        await self.context.events.store(tx, event)
        self._noted[event] = None

    @property
    def wanted(self) -> dict[str, Any]:
        """The filters that the ledger applies, by their parameters' names."""
        return filters.stored(self.command.narrows, self.args)

    def page(self) -> tuple[int, int]:
        """Return (first row, how many) from page and pagesize."""
        most = self.context.settings.whole("default.page.size")
        size = self.args.get("pagesize")
        size = most if size in {None, -1} else size
        if not 0 < size <= most:
            raise ApiParamError(
                f"The parameter pagesize exceeded its max value; Parameter pagesize exceeded its "
                f"max value - {most}"
            )
        page, given = self.args.get("page"), self.args.get("pagesize")
        if page is not None and given is None:
            raise ApiParamError('"pagesize" parameter is required when "page" is specified')
        if page is None and given not in {None, -1}:
            raise ApiParamError('"page" parameter is required when "pagesize" is specified')
        return ((page or 1) - 1) * size, size

    def no_entity(self, name: str) -> ApiParamError:
        """Return the error for an id that names nothing this caller may see."""
        return no_entity(self.command.name, name, str(self.args.get(name)))


def no_entity(command: str, name: str, value: str) -> ApiParamError:
    """Return CloudStack's error for an id that names nothing."""
    return ApiParamError(
        f"Unable to execute API command {command.lower()} due to invalid value. Invalid parameter "
        f"{name} value={value} due to incorrect long value format, or entity does not exist or due "
        f"to incorrect parameter annotation for the field in api cmd class."
    )


@dataclass(frozen=True, slots=True)
class Listing:
    """A list response: object name, items, and the number on all pages.

    *also*: the same under a second name, for clients that derive it from the command's.
    """

    name: str
    items: list[dict[str, Any]]
    count: int | None = None
    also: tuple[str, list[dict[str, Any]]] | None = None


@dataclass(frozen=True, slots=True)
class Single:
    """One object under its name. *flat*: fields next to it, where clients that know no
    name look for them."""

    name: str
    item: dict[str, Any]
    flat: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bare:
    """Fields directly in the envelope (success, a job's start, a job's state)."""

    fields: dict[str, Any]


Reply = Listing | Single | Bare
Handler = Callable[[Call], Awaitable[Reply]]


NAMED: Final = Contains(("name",))


def listed(keyword: Narrowing = NAMED, *, listall: Narrowing = SHOWS) -> tuple[Param, ...]:
    """Return what every list command takes; *keyword*: what it looks into."""
    return (
        Param("keyword", text="by a part of its name or description", narrows=keyword),
        Param("page", Kind.INTEGER, "the page, from 1; with pagesize", least=1, narrows=SHOWS),
        Param(
            "pagesize",
            Kind.INTEGER,
            "rows per page, with page; -1 = as many as may be",
            least=-1,
            narrows=SHOWS,
        ),
        Param(
            "listall",
            Kind.BOOLEAN,
            "false: the caller's own, where rows have owners",
            narrows=listall,
        ),
        Param("isrecursive", Kind.BOOLEAN, "accepted: there is one domain", narrows=SHOWS),
        Param("showicon", Kind.BOOLEAN, "accepted: nothing has an icon", narrows=SHOWS),
    )


IN_DOMAIN: Final = Param(
    "domainid", Kind.UUID, "by domain: there is one", narrows=filters.Is(ROOT_DOMAIN)
)
IN_PROJECT: Final = Param("projectid", text="no project has any", narrows=filters.NONE)
TAGGED: Final = Param("tags", Kind.MAP, "nothing has resource tags", narrows=filters.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One API command."""

    name: str
    text: str
    handler: Handler
    params: tuple[Param, ...] = ()
    response: tuple[Field, ...] = ()
    admin: bool = False
    opened_by: str = ""
    """The setting by which users may call a command of administrators."""
    changes: bool = False
    """Changes state, by ``Call.write`` only: a version 3 request takes effect once."""
    is_async: bool = False
    since: str = ""
    related: str = ""
    empty: bool = False
    """A list of what there never is here: no filter can be ignored."""
    by_name: Mapping[str, Param] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {param.name: param for param in self.params})

    @property
    def narrows(self) -> filters.Rules:
        """How each parameter narrows what is listed."""
        return {param.name: param.narrows for param in self.params}

    @property
    def is_list(self) -> bool:
        """Whether it lists what its parameters leave."""
        return self.name.startswith("list")


def read_args(command: Command, given: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments in *given* (names as sent); ApiParamError in CloudStack's words.

    A name in any case is understood. Unknown parameters are ignored, as CloudStack does, but not
    by list commands: they may be filters, and so may be blank ones.
    """
    args: dict[str, Any] = {}
    maps: dict[str, dict[str, dict[str, str]]] = {}
    for raw, value in given.items():
        if (match := _MAP_KEY.fullmatch(raw)) and match[1].lower() in command.by_name:
            entries = maps.setdefault(match[1].lower(), {})
            entries.setdefault(match[2], {})[match[3]] = value
            if sum(map(len, entries.values())) > 2 * MAP_MAX:
                raise ApiParamError(f"More than {MAP_MAX} entries in parameter {match[1]}")
            continue
        param = command.by_name.get(raw.lower())
        if command.is_list and not command.empty:
            _check_filter(command, param, raw, value)
        # Only blanks are not a value for a required parameter.
        if param is not None and (value.strip() if param.required else value):
            args[param.name] = _read(command, param, value)
    for param in command.params:
        if param.kind is Kind.MAP:
            if param.name in maps:
                args[param.name] = _read_map(maps[param.name])
                if len(args[param.name]) > MAP_MAX:
                    raise ApiParamError(f"More than {MAP_MAX} entries in parameter {param.name}")
        elif param.name not in args:
            if param.required:
                raise ApiParamError(
                    f"Unable to execute API command {command.name.lower()} due to missing "
                    f"parameter {param.name}"
                )
            if param.default is not None:
                args[param.name] = param.default
    return args


def _read_map(entries: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Both spellings: ``details[0].KEY=VALUE`` and ``details[0].key=KEY``/``.value=VALUE``."""
    found: dict[str, str] = {}
    for entry in entries.values():
        found |= {entry["key"]: entry["value"]} if set(entry) == {"key", "value"} else entry
    return found


_FRAME: Final = frozenset(
    {
        "command",
        "response",
        "apikey",
        "signature",
        "signatureversion",
        "expires",
        "sessionkey",
        "_",
    }
)
"""What any request has in addition to its command's parameters; browsers' libraries add ``_``."""


def _check_filter(command: Command, param: Param | None, name: str, value: str) -> None:
    if param is None:
        if name.lower() not in _FRAME:
            raise ApiParamError(
                f"Unable to execute API command {command.name.lower()}: it has no parameter "
                f"{name[:100]}, and as a filter that is ignored it would list too much"
            )
    elif not value and not (param.name == "keyword" or param.narrows is SHOWS):
        raise ApiParamError(
            f"Unable to execute API command {command.name.lower()}: the parameter {param.name} is "
            f"blank, and as a filter that is ignored it would list too much"
        )


def _read(command: Command, param: Param, value: str) -> Any:
    def bad() -> ApiParamError:
        shown = value if len(value) <= 200 else value[:200] + "…"
        return ApiParamError(
            f"Unable to execute API command {command.name.lower()} due to invalid value {shown} "
            f"for parameter {param.name}"
        )

    if "\x00" in value:
        raise bad()
    match param.kind:
        case Kind.STRING:
            if len(value) > param.length:
                raise ApiParamError(
                    f"Value greater than max allowed length {param.length} for param: {param.name}"
                )
            if param.choices:
                known = {choice.lower(): choice for choice in param.choices}
                if value.lower() not in known:
                    raise bad()
                return known[value.lower()]
            return value
        case Kind.UUID:
            if not _UUID.fullmatch(value):
                raise no_entity(command.name, param.name, value[:100])
            return value.lower()
        case Kind.INTEGER:
            if not re.fullmatch(r"[+-]?[0-9]{1,10}", value):
                raise bad()
            if not param.least <= int(value) <= param.most:
                raise bad()
            return int(value)
        case Kind.NUMBER:
            if not re.fullmatch(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?", value):
                raise bad()
            return float(value)
        case Kind.BOOLEAN:
            if value.lower() not in {"true", "false"}:
                raise bad()
            return value.lower() == "true"
        case Kind.DATE:
            moment = _moment(value, end=param.name.startswith("end"))
            if moment is None:
                raise bad()
            return moment
        case Kind.LIST:
            items = [item.strip() for item in value.split(",") if item.strip()]
            if len(items) > LIST_MAX or any(len(item) > 255 for item in items):
                raise bad()
            return items
        case Kind.MAP:
            raise bad()


def _moment(text: str, *, end: bool) -> float | None:
    """Return the time (UTC) that CloudStack's clients write as a day, as a day and a time, or as
    responses have it; of a day its first moment, or with *end* its last. None = it is none."""
    for form in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d"):
        try:
            found = dt.datetime.strptime(text.strip(), form)  # noqa: DTZ007 - UTC is set below
        except ValueError:
            continue
        found = found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)
        whole_day = end and form == "%Y-%m-%d"
        try:
            return found.timestamp() + (_DAY_S if whole_day else 1 if end else 0)
        except (OverflowError, ValueError):
            return None
    return None
