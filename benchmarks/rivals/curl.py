# SPDX-License-Identifier: Apache-2.0
"""What most people do: curl to the target, then a second pass with openssl dgst."""

from __future__ import annotations

from benchmarks.meter import Step
from benchmarks.rivals.base import Job, Rival, as_it_is, openssl_digest, step
from benchmarks.scenarios import Scenario


class Curl(Rival):
    name = "curl"
    needs = ("curl", "openssl")

    def cannot(self, scenario: Scenario) -> str | None:
        return as_it_is(scenario)

    def steps(self, job: Job) -> list[Step]:
        fetch = step("curl", "-sSf", *job.curl_trust, "-o", job.target.path, job.url)
        return [fetch, openssl_digest(job.target.path)] if job.hashed else [fetch]


RIVAL = Curl()
