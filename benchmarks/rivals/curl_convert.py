# SPDX-License-Identifier: Apache-2.0
"""curl to a file beside, openssl dgst, qemu-img convert onto the device."""

from __future__ import annotations

from benchmarks.meter import Step
from benchmarks.rivals.base import Job, Rival, openssl_digest, step
from benchmarks.scenarios import Scenario


class CurlConvert(Rival):
    name = "curl+qemu-img"
    needs = ("curl", "openssl", "qemu-img")

    def cannot(self, scenario: Scenario) -> str | None:
        return None if scenario.converts else "only makes sense where an image is converted"

    def steps(self, job: Job) -> list[Step]:
        staged = job.scratch / "staged.qcow2"
        steps = [step("curl", "-sSf", *job.curl_trust, "-o", staged, job.url)]
        if job.hashed:
            steps.append(openssl_digest(staged))
        steps.append(
            step(
                "qemu-img",
                "convert",
                "-f",
                "qcow2",
                "-O",
                "raw",
                "-n",
                "-W",
                "-m",
                "8",
                "-t",
                "none",
                staged,
                job.target.path,
            )
        )
        return steps


RIVAL = CurlConvert()
