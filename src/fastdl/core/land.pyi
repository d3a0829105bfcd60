# SPDX-License-Identifier: Apache-2.0
class Lander:
    """Owns one ``fdl_lander`` and keeps its sink alive."""

    def close(self) -> None:
        """Free it; a job that uses it is halted first. Idempotent."""
