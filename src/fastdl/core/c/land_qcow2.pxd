# SPDX-License-Identifier: Apache-2.0
from libcpp cimport bool

from fastdl.core.c.err cimport fdl_err
from fastdl.core.c.land cimport fdl_lander
from fastdl.core.c.qcow2 cimport fdl_qcow2
from fastdl.core.c.sink cimport fdl_sink


cdef extern from "decode/land_qcow2.h" nogil:
    struct fdl_land_qcow2_options:
        unsigned threads
        bool detect_zeros
    int fdl_land_qcow2_new(fdl_lander **out, fdl_qcow2 *img, fdl_sink *sink,
                           const fdl_land_qcow2_options *options, fdl_err *err)
