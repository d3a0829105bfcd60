# SPDX-License-Identifier: Apache-2.0
"""qemu-img convert straight from the URL: no digest of the source is possible."""

from __future__ import annotations

import json

from benchmarks.meter import Step
from benchmarks.rivals.base import Job, Rival, no_null, step
from benchmarks.scenarios import MiB, Scenario


class QemuImg(Rival):
    name = "qemu-img-url"
    needs = ("qemu-img",)

    def cannot(self, scenario: Scenario) -> str | None:
        if scenario.digest != "none":
            return "cannot hash what it reads"
        if scenario.image != "raw" and scenario.target == "file":
            return "would rewrite the image instead of copying it"
        return no_null(scenario)

    def steps(self, job: Job) -> list[Step]:
        # qemu's driver takes no authority's file, so it does not verify the origin here.
        source = {
            "file.driver": job.scenario.scheme,
            "file.url": job.url,
            "file.readahead": 4 * MiB,
            "driver": "raw" if job.scenario.image == "raw" else "qcow2",
        }
        if job.tls:
            source["file.sslverify"] = "off"
        there = ("-n", "-t", "none") if job.target.kind == "block" else ()
        return [
            step(
                "qemu-img",
                "convert",
                "-O",
                "raw",
                *there,
                "json:" + json.dumps(source),
                job.target.path,
            )
        ]


RIVAL = QemuImg()
