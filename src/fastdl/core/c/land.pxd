# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t


cdef extern from "decode/land.h" nogil:
    struct fdl_lander_ops:
        void (*stats)(const fdl_lander *self, uint64_t *target_bytes,
                      uint64_t *busy_ns) noexcept nogil
        void (*free)(fdl_lander *self) noexcept nogil
    struct fdl_lander:
        const fdl_lander_ops *ops
