# SPDX-License-Identifier: Apache-2.0
"""Stacks of perf are sorted by what the processor did for the download."""

from __future__ import annotations

import pytest

from benchmarks.explain import classify, stacks

_SCRIPT = """\
fetch-0  4711
\tffffffff81a0 rep_movs_alternative
\tffffffff81b0 tcp_recvmsg_locked
\tffffffff81c0 __x64_sys_recvfrom
\t        7f01 recv

hash  4712
\t        7f02 sha256_block_data_order

"""


def test_samples_are_split_at_empty_lines() -> None:
    """One list of symbols a sample, innermost first."""
    assert list(stacks(_SCRIPT)) == [
        ["rep_movs_alternative", "tcp_recvmsg_locked", "__x64_sys_recvfrom", "recv"],
        ["sha256_block_data_order"],
    ]


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        (["copy_page", "__x64_sys_pwrite64", "pwrite64"], "write"),
        (["rep_movs_alternative", "__x64_sys_recvfrom"], "receive"),
        (["sha256_block_data_order"], "hash"),
        (["aesni_gcm_decrypt"], "tls"),
        (["submit_bio", "__x64_sys_fdatasync"], "flush"),
        (["something_else"], "other"),
    ],
)
def test_a_sample_belongs_to_what_its_stack_says(frames: list[str], kind: str) -> None:
    """Kernel work is charged to the call that asked for it."""
    assert classify(frames) == kind
