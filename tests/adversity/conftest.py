# SPDX-License-Identifier: Apache-2.0
"""What do the adversity tests share? A network with an inside and an outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.env.netns import Namespace, network_namespace
from tests.env.origin import FaultOrigin, Resource
from tests.env.sides import ADDRESSES, HOSTS, IMAGE, NAMESERVER, PUBLIC, Net


@pytest.fixture(scope="module")
def space() -> Iterator[Namespace]:
    """One namespace for the module."""
    inside = [f"{a}/32" for a in ADDRESSES]
    with network_namespace(inside, hosts=HOSTS, nameserver=NAMESERVER) as made:
        yield made


@pytest.fixture
def net(space: Namespace, tmp_path: Path) -> Iterator[Net]:
    """Two fresh servers: one on the public address, one on every address."""
    (tmp_path / "pool").mkdir()
    with (
        FaultOrigin(
            {"/image.raw": Resource.of(IMAGE)}, name=PUBLIC, listener=space.listen(PUBLIC)
        ) as typed,
        FaultOrigin({"/image.raw": Resource.of(IMAGE)}, listener=space.listen("::")) as other,
    ):
        yield Net(space, typed, other, tmp_path)
