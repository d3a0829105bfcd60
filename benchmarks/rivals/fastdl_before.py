# SPDX-License-Identifier: Apache-2.0
"""fastdl of another commit, beside this one in each round: what did the change cost or bring?

``FASTDL_BENCH_BEFORE`` names its ``fastdl`` program, in an environment that it was built into.
"""

from __future__ import annotations

import os
from typing import Final

from benchmarks.meter import Command, Step
from benchmarks.rivals.base import Job, first_line
from benchmarks.rivals.fastdl import Fastdl, get_argv
from benchmarks.scenarios import Scenario

VARIABLE: Final = "FASTDL_BENCH_BEFORE"


class FastdlBefore(Fastdl):
    name = "fastdl-before"

    def cannot(self, scenario: Scenario) -> str | None:
        return None if os.environ.get(VARIABLE) else f"{VARIABLE} names no program"

    def steps(self, job: Job) -> list[Step]:
        env = {"PYTHONDONTWRITEBYTECODE": ""}
        if job.scenario.cpu == "nosha":  # as it was before there were kernels for that
            env["FASTDL_SHA256"] = "openssl"
        return [Step(pipeline=(Command(argv=get_argv(job, program=_program()), env=env),))]

    def versions(self) -> dict[str, str]:
        return {"fastdl-before": first_line(*_program())}


def _program() -> tuple[str, ...]:
    return (os.environ.get(VARIABLE, "fastdl"),)


RIVAL = FastdlBefore()
