# SPDX-License-Identifier: Apache-2.0
"""fastdl with OpenSSL's SHA-256: what it was before it had its own, for processors without SHA."""

from __future__ import annotations

from benchmarks.rivals.fastdl import Fastdl
from benchmarks.scenarios import Scenario


class FastdlOpenssl(Fastdl):
    name = "fastdl-openssl"
    without_sha = "openssl"

    def cannot(self, scenario: Scenario) -> str | None:
        return None if scenario.cpu == "nosha" else "is fastdl itself there"


RIVAL = FastdlOpenssl()
