# SPDX-License-Identifier: Apache-2.0
"""What NATS stores for hosts: mailboxes, and results that no manager has taken yet."""

from __future__ import annotations

import contextlib
from typing import Final

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NotFoundError

from fastdl.wire import messages as m
from fastdl.wire.nats import subjects
from fastdl.wire.nats.sealed import OVERHEAD

REPLICAS: Final = 3
TAKEN_S: Final = 5.0
"""A result that a manager took and did not confirm is given to another after so long: it may have
died. One that is only slow does no harm: the second time a result is stale."""
TOGETHER: Final = 64
"""Results that a manager takes at a time."""
PER_HOST: Final = 32
"""Results of one host that may wait; it keeps further ones itself."""
_MIB: Final = 1 << 20

BOX: Final = StreamConfig(
    name=subjects.BOX,
    description="fastdl: what each host should be doing; may be deleted at any time",
    subjects=[subjects.ANY_BOX],
    max_msgs_per_subject=1,
    max_msg_size=m.TO_AGENT_MAX + OVERHEAD,
    max_bytes=256 * _MIB,
    discard=DiscardPolicy.OLD,
    storage=StorageType.MEMORY,
    allow_direct=True,
    num_replicas=REPLICAS,
)
RESULTS: Final = StreamConfig(
    name=subjects.RESULTS,
    description="fastdl: results of hosts for any manager; hosts have them, too",
    subjects=[subjects.ANY_RESULT],
    retention=RetentionPolicy.WORK_QUEUE,
    max_msgs_per_subject=PER_HOST,
    discard_new_per_subject=True,
    max_msg_size=m.TO_MANAGER_MAX + OVERHEAD,
    max_bytes=1024 * _MIB,
    max_age=24 * 3600.0,
    discard=DiscardPolicy.NEW,
    storage=StorageType.FILE,
    num_replicas=REPLICAS,
)
_CONSUMER: Final = ConsumerConfig(
    durable_name=subjects.CONSUMER,
    ack_policy=AckPolicy.EXPLICIT,
    ack_wait=TAKEN_S,
    max_ack_pending=1024,
)


async def ensure(js: JetStreamContext) -> None:
    """Make what is missing, on several servers of a cluster as soon as there are as many."""
    for config in (BOX, RESULTS):
        assert config.name is not None
        try:
            info = await js.stream_info(config.name)
        except NotFoundError:
            try:
                info = await js.add_stream(config)
            except APIError:  # there are fewer servers, for now or permanently
                info = await js.add_stream(config.evolve(num_replicas=1))
        if info.cluster and info.cluster.name and info.config.num_replicas != REPLICAS:
            with contextlib.suppress(NatsError):
                await js.update_stream(info.config.evolve(num_replicas=REPLICAS))
    try:
        await js.consumer_info(subjects.RESULTS, subjects.CONSUMER)
    except NotFoundError:
        await js.add_consumer(subjects.RESULTS, _CONSUMER)
