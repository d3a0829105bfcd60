# SPDX-License-Identifier: Apache-2.0
"""wget2 to a file, then openssl dgst. Its --chunk-size is left out: it damages files at times."""

from __future__ import annotations

from benchmarks.meter import Step
from benchmarks.rivals.base import Job, Rival, openssl_digest, step, whole_file
from benchmarks.scenarios import Scenario


class Wget2(Rival):
    name = "wget2"
    needs = ("wget2", "openssl")

    def cannot(self, scenario: Scenario) -> str | None:
        return whole_file(scenario)

    def steps(self, job: Job) -> list[Step]:
        trust = (f"--ca-certificate={job.cacert}",) if job.tls else ()
        fetch = step("wget2", "--no-config", "-q", *trust, "-O", job.target.path, job.url)
        return [fetch, openssl_digest(job.target.path)] if job.hashed else [fetch]


RIVAL = Wget2()
