# SPDX-License-Identifier: Apache-2.0
"""The agent of Apache CloudStack, step by step, with faster tools than its own.

One GET to the temporary location, a second pass for the digest, then a copy to the pool (its
`mv` crosses file systems: /var/lib/libvirt/images against the pool), or qemu-img convert for a
device. curl stands for commons-httpclient and openssl for Java's MessageDigest: both are
faster, so this flatters it.
"""

from __future__ import annotations

from benchmarks.meter import Step
from benchmarks.rivals.base import Job, Rival, no_null, openssl_digest, step
from benchmarks.scenarios import Scenario


class CloudStack(Rival):
    name = "cloudstack"
    needs = ("curl", "openssl", "cp", "qemu-img")

    def cannot(self, scenario: Scenario) -> str | None:
        return no_null(scenario)

    def steps(self, job: Job) -> list[Step]:
        temporary = job.scratch / "template"
        steps = [step("curl", "-sSf", *job.curl_trust, "-o", temporary, job.url)]
        if job.hashed:
            steps.append(openssl_digest(temporary))
        if job.target.kind == "block":
            form = "raw" if job.scenario.image == "raw" else "qcow2"
            land = step(
                "qemu-img", "convert", "-f", form, "-O", "raw", "-n", temporary, job.target.path
            )
        else:
            land = step("cp", "--reflink=never", temporary, job.target.path)
        return [*steps, land]


RIVAL = CloudStack()
