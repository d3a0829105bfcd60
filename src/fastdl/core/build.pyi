# SPDX-License-Identifier: Apache-2.0
def features() -> list[str]:
    """Names of libraries and optional parts, for ``fastdl --version``."""
