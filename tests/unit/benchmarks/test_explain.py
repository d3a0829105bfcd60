# SPDX-License-Identifier: Apache-2.0
"""Stacks of perf are sorted by what the processor did for the download."""

from __future__ import annotations

import pytest

from benchmarks.explain import classify, sort_samples, stacks

_SCRIPT = """\
   4711 \n\
\tffffffff81a0 rep_movs_alternative ([kernel.kallsyms])
\tffffffff81c0 __x64_sys_recvfrom ([kernel.kallsyms])
\t        7f01 recv (/usr/lib/libc.so.6)

   4711 \n\
\t        7f02 [unknown] (/usr/lib/libcrypto.so.3)

   4712 \n\
\t        7f02 [unknown] (/usr/lib/libcrypto.so.3)

"""


def test_samples_are_split_by_thread() -> None:
    """One list of frames a sample, innermost first, with the thread that it is of."""
    threads = [thread for thread, _ in stacks(_SCRIPT)]
    first = next(stacks(_SCRIPT))[1]
    assert threads == ["4711", "4711", "4712"]
    assert first[0].startswith("rep_movs")
    assert "recv (/usr/lib/libc.so.6)" in first


def test_nameless_cryptography_is_told_apart_by_its_thread() -> None:
    """A thread that receives decrypts, one that does not hashes."""
    assert sort_samples(stacks(_SCRIPT)) == {"receive": 1, "tls": 1, "hash": 1}


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        (["copy_page", "__x64_sys_pwrite64", "pwrite64"], "write"),
        (["rep_movs_alternative", "__x64_sys_recvfrom"], "receive"),
        (["sha256_block_data_order"], "hash"),
        (["sha256_one (/usr/lib/python3/dist-packages/fastdl/core/job.so)"], "hash"),
        (["aesni_gcm_decrypt"], "tls"),
        (["submit_bio", "__x64_sys_fdatasync"], "flush"),
        (["something_else"], "other"),
    ],
)
def test_a_sample_belongs_to_what_its_stack_says(frames: list[str], kind: str) -> None:
    """Kernel work is charged to the call that asked for it."""
    assert classify(frames) == kind
