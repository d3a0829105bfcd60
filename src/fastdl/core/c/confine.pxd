# SPDX-License-Identifier: Apache-2.0


cdef extern from "base/confine.h" nogil:
    enum:
        FDL_CONFINE_NETWORK
        FDL_CONFINE_PROGRAM
        FDL_CONFINE_BROKER
    int fdl_confine_calls(unsigned allow, int *listener)
