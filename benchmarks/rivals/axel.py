# SPDX-License-Identifier: Apache-2.0
"""axel with all its connections, then openssl dgst. It cannot be given an authority's file."""

from __future__ import annotations

from benchmarks.meter import Step
from benchmarks.rivals.base import Job, Rival, openssl_digest, step, whole_file
from benchmarks.scenarios import Scenario


class Axel(Rival):
    name = "axel"
    needs = ("axel", "openssl")
    uses_mirrors = True

    def cannot(self, scenario: Scenario) -> str | None:
        return whole_file(scenario)

    def steps(self, job: Job) -> list[Step]:
        trust = ("--insecure",) if job.tls else ()
        fetch = step(
            "axel", "-q", "-n", str(job.connections), *trust, "-o", job.target.path, *job.urls
        )
        return [fetch, openssl_digest(job.target.path)] if job.hashed else [fetch]


RIVAL = Axel()
