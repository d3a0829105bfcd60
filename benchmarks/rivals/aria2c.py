# SPDX-License-Identifier: Apache-2.0
"""aria2c with all its connections and its cheapest allocation, then openssl dgst.

openssl's second pass is faster than aria2c's own --checksum, so this is aria2c at its best.
"""

from __future__ import annotations

from benchmarks.meter import Step
from benchmarks.rivals.base import Job, Rival, openssl_digest, step, whole_file
from benchmarks.scenarios import Scenario


class Aria2c(Rival):
    name = "aria2c"
    needs = ("aria2c", "openssl")
    uses_mirrors = True

    def cannot(self, scenario: Scenario) -> str | None:
        return whole_file(scenario)

    def steps(self, job: Job) -> list[Step]:
        number = str(min(16, job.connections))
        if job.metalink is not None:
            return [_by_metalink(job, number)]
        trust = (f"--ca-certificate={job.cacert}",) if job.tls else ()
        fetch = step(
            "aria2c",
            "--no-conf",
            "--quiet",
            "-x",
            number,
            "-s",
            number,
            "-k",
            "1M",
            "--file-allocation=none",
            "--allow-overwrite=true",
            *trust,
            "-d",
            job.target.path.parent,
            "-o",
            job.target.path.name,
            *job.urls,
        )
        return [fetch, openssl_digest(job.target.path)] if job.hashed else [fetch]


def _by_metalink(job: Job, number: str) -> Step:
    """It checks the pieces as they arrive, and the whole file at the end."""
    return step(
        "aria2c",
        "--no-conf",
        "--quiet",
        "-x",
        number,
        "-s",
        number,
        "-k",
        "1M",
        "--file-allocation=none",
        "--allow-overwrite=true",
        "--check-integrity=true",
        f"--metalink-file={job.metalink}",
        "-d",
        job.target.path.parent,
    )


RIVAL = Aria2c()
