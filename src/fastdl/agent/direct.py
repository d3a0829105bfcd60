# SPDX-License-Identifier: Apache-2.0
"""How does a download run in this process, for a user who named the source?

The agent runs what others ask for in confined processes (``work``). A user at a command line may
read what the download needs: certificates, netrc, a proxy's environment.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from fastdl.agent.confine import Confinement
from fastdl.agent.work import ProgressCallback, Runner, Work
from fastdl.engine.api import in_thread
from fastdl.engine.cancel import Cancel
from fastdl.engine.context import Events
from fastdl.engine.fetch import fetch_job
from fastdl.engine.options import FetchOptions, Placement
from fastdl.engine.options import ProgressCallback as Report
from fastdl.engine.probe import probe_job
from fastdl.engine.unpack import unpack_into
from fastdl.errors import InternalError


class Direct:
    """Runs the works of one job in a thread. *cancel* stops them; *progress* and *log* as for
    ``fetch_sync``.
    """

    def __init__(
        self,
        cancel: Cancel,
        *,
        progress: Report | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._cancel = cancel
        self._progress = progress
        self._log = log

    @contextlib.asynccontextmanager
    async def series(self, confinement: Confinement) -> AsyncIterator[Runner]:
        """As ``work.series``; nothing is confined."""
        del confinement
        yield self.run

    async def run(
        self,
        work: Work,
        /,
        *,
        progress: ProgressCallback | None = None,
        deadline: float | None = None,
    ) -> dict[str, Any]:
        """The result of *work*; raises what the engine raises."""
        del progress, deadline  # reported to whoever made this; --max-time is the engine's
        return await in_thread(partial(self._do, work), self._cancel)

    def _do(self, work: Work) -> dict[str, Any]:
        options = FetchOptions.build(checksum=work.checksum, **work.options)
        if work.action == "probe":
            with self._cancel.within(options.max_time):
                return probe_job(work.sources, options, self._cancel).to_dict()
        if work.action not in {"fetch", "unpack"} or work.target is None:
            raise InternalError(f"no work of the kind {work.action} is done here")
        return fetch_job(
            work.sources,
            work.target,
            options,
            events=Events(self._progress, self._log),
            cancel=self._cancel,
            placement=Placement(**work.placement),
            into=unpack_into if work.action == "unpack" else None,
        ).to_dict()
