# SPDX-License-Identifier: Apache-2.0
"""Does every request for a volume end?"""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastdl.agent.config import HostConfig
from fastdl.agent.volume_jobs import Limits, VolumeJobs
from fastdl.wire.volumes import VolumeRequest


async def test_a_job_that_is_cancelled_before_it_begins_ends(tmp_path: Path) -> None:
    """Its request and its cancellation may arrive at the same instant: a task that has not begun
    runs none of its code."""
    config = HostConfig(tmp_path, {})
    jobs = VolumeJobs(lambda: config, libvirt="test:///default", state=tmp_path, limits=Limits())
    request = VolumeRequest(id="1", pool="p", name="v", sources=("http://127.0.0.1:1/x",))
    job = jobs.submit(request)
    async with asyncio.timeout(5):
        await jobs.cancel(job)
    assert job.state == "cancelled"
    assert jobs.submit(request) is not job
    async with asyncio.timeout(5):
        await jobs.close()
