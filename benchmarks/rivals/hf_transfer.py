# SPDX-License-Identifier: Apache-2.0
"""hf_transfer (Rust, from PyPI) in 4 MiB chunks, then openssl dgst: the fastest without a hash."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

from benchmarks.meter import Step
from benchmarks.rivals.base import Job, Rival, openssl_digest, step, whole_file
from benchmarks.scenarios import MiB, Scenario


class HfTransfer(Rival):
    name = "hf_transfer"
    needs = ("openssl",)

    def cannot(self, scenario: Scenario) -> str | None:
        if importlib.util.find_spec("hf_transfer") is None:
            return "hf_transfer is not installed"
        if scenario.scheme == "https":
            return "accepts no authority of one's own"
        return whole_file(scenario)

    def steps(self, job: Job) -> list[Step]:
        call = (
            "import sys, hf_transfer; "
            "hf_transfer.download(sys.argv[1], sys.argv[2], int(sys.argv[3]), "
            f"{4 * MiB}, parallel_failures=0, max_retries=0)"
        )
        fetch = step(sys.executable, "-c", call, job.url, job.target.path, str(job.connections))
        return [fetch, openssl_digest(job.target.path)] if job.hashed else [fetch]

    def versions(self) -> dict[str, str]:
        return {"hf_transfer": importlib.metadata.version("hf_transfer")}


RIVAL = HfTransfer()
