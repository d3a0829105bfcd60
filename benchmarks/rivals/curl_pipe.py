# SPDX-License-Identifier: Apache-2.0
"""curl piped to dd with O_DIRECT, a tee feeding openssl dgst: one pass, no temporary file."""

from __future__ import annotations

import os

from benchmarks.meter import Command, Step
from benchmarks.rivals.base import Job, Rival, as_it_is, command
from benchmarks.scenarios import MiB, Scenario


class CurlPipe(Rival):
    name = "curl+dd+openssl"
    needs = ("curl", "dd", "tee", "openssl")

    def cannot(self, scenario: Scenario) -> str | None:
        return as_it_is(scenario)

    def steps(self, job: Job) -> list[Step]:
        fetch = command("curl", "-sSf", *job.curl_trust, job.url)
        # fullblock collects what a pipe gives into whole direct writes; dd writes a ragged
        # tail without O_DIRECT by itself.
        write: Command = command(
            "dd",
            f"of={job.target.path}",
            f"bs={MiB}",
            "iflag=fullblock",
            "oflag=direct",
            "conv=notrunc" if job.target.kind == "block" else "conv=fsync",
            "status=none",
        )
        if not job.hashed:
            return [Step(pipeline=(fetch, write))]
        fifo = job.scratch / "to-openssl"
        os.mkfifo(fifo)
        return [
            Step(
                pipeline=(fetch, command("tee", fifo), write),
                beside=(command("openssl", "dgst", "-sha256", fifo),),
            )
        ]


RIVAL = CurlPipe()
