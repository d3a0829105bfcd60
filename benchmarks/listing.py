# SPDX-License-Identifier: Apache-2.0
"""What can be measured here? Sets with their scenarios, rivals with their versions."""

from __future__ import annotations

import argparse

from benchmarks.rivals import all_rivals
from benchmarks.scenarios import DIGESTS, IMAGES, SCHEMES, SETS, TARGETS, Scenario


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    print("axes of a scenario's name:")
    print(f"  scheme {'|'.join(SCHEMES)}   mirrors Nmirror   connections Nconn   round trip Nms")
    print("  path of the kernel's TCP between network namespaces: netns")
    print("  shared link NMBps   each connection NMiBpsconn   size NMiB|NGiB")
    print(f"  image {'|'.join(IMAGES)}   target {'|'.join(TARGETS)}   digest {'|'.join(DIGESTS)}")
    for name, scenarios in SETS.items():
        print(f"\nset {name}:")
        for scenario in scenarios:
            print(f"  {scenario.name}")
    print("\nrivals:")
    for rival in all_rivals():
        missing = rival.refuses(Scenario(digest="none"))
        absent = missing if missing and "installed" in missing else None
        versions = {} if absent else rival.versions()
        shown = absent or "; ".join(f"{key}: {value}" for key, value in versions.items())
        print(f"  {rival.name:<16} {shown}")
    return 0
