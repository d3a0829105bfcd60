# SPDX-License-Identifier: Apache-2.0
from fastdl.core.image import Qcow2
from fastdl.core.land import Lander
from fastdl.core.sink import Sink

class Qcow2Lander(Lander):
    """Clusters of *image*, which it takes over, at the guest's offsets on *sink*."""

    def __init__(
        self, image: Qcow2, sink: Sink, *, threads: int = 2, detect_zeros: bool = True
    ) -> None: ...

class StreamLander(Lander):
    """A compressed source (*kind*: gz, bz2, xz, zst, zip), raw or qcow2 inside. Sizes in bytes.

    *max_ratio*: output : input, from 1 GiB of output on and without the zeros that
    *detect_zeros* spares; None: 1000, 0: no limit.
    """

    def __init__(
        self,
        kind: str,
        sink: Sink,
        *,
        qcow2: bool,
        max_output: int | None = None,
        sink_size: int | None = None,
        max_virtual_size: int | None = None,
        max_ratio: int | None = None,
        threads: int = 2,
        detect_zeros: bool = True,
    ) -> None: ...
    @property
    def decoded(self) -> int:
        """Decoded bytes so far."""

    @property
    def tail(self) -> bytes:
        """The last decoded bytes, at most 512."""

    @property
    def trailing(self) -> int:
        """Ignored bytes after the compressed streams."""

    @property
    def virtual_size(self) -> int:
        """Virtual size of a decoded qcow2; 0 while unknown or raw."""
