# SPDX-License-Identifier: Apache-2.0
"""nbdkit's curl plugin read by nbdcopy, then openssl dgst over the target."""

from __future__ import annotations

from benchmarks.meter import Step
from benchmarks.rivals.base import Job, Rival, as_it_is, command, openssl_digest
from benchmarks.scenarios import MiB, Scenario


class NbdCopy(Rival):
    name = "nbdkit+nbdcopy"
    needs = ("nbdkit", "nbdcopy", "openssl")

    def cannot(self, scenario: Scenario) -> str | None:
        return as_it_is(scenario)

    def steps(self, job: Job) -> list[Step]:
        # A handle of curl for each NBD connection; the plugin has no pool before nbdkit 1.34.
        socket = job.scratch / "nbd"
        trust = (f"cainfo={job.cacert}",) if job.tls else ()
        serve = command(
            "nbdkit",
            "-f",
            "-r",
            "-U",
            socket,
            "curl",
            f"url={job.url}",
            *trust,
        )
        copy = command(
            "nbdcopy",
            f"--request-size={4 * MiB}",
            f"nbd+unix:///?socket={socket}",
            job.target.path,
        )
        steps = [Step(pipeline=(copy,), services=(serve,), ready=socket)]
        return [*steps, openssl_digest(job.target.path)] if job.hashed else steps


RIVAL = NbdCopy()
