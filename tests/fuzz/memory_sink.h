/* SPDX-License-Identifier: Apache-2.0 */
/* memory_sink.h - a target in memory, for fuzz targets: filled with a pattern, so that
 * what nobody wrote shows, and counted, so that what two wrote shows. */
#ifndef MEMORY_SINK_H
#define MEMORY_SINK_H

#undef NDEBUG
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "sink/sink_ops.h"

#define MEMORY_PATTERN 0xee
#define PATTERN_MAX (256u << 10) /* filling megabytes would take most of the time */

/* What was freed is soon used again, not kept until 256 MiB of it are cold: measured, a
 * fifth of the time. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=8:thread_local_quarantine_size_kb=64";
}

struct memory_sink {
    struct fdl_sink base;
    unsigned char *data; /* OWNED: room bytes */
    size_t room;
};

static int memory_pwrite(struct fdl_sink *sink, const void *buf, size_t len,
                         uint64_t off, struct fdl_err *err)
{
    struct memory_sink *m = (struct memory_sink *)sink;

    (void)err;
    assert(off <= m->room && len <= m->room - off);
    memcpy(m->data + off, buf, len);
    atomic_fetch_add(&sink->written, len);
    return FDL_OK;
}

static int memory_zero(struct fdl_sink *sink, uint64_t off, uint64_t len,
                       struct fdl_err *err)
{
    struct memory_sink *m = (struct memory_sink *)sink;

    (void)err;
    assert(off <= m->room && len <= m->room - off);
    memset(m->data + off, 0, (size_t)len);
    atomic_fetch_add(&sink->zeroed, len);
    return FDL_OK;
}

static int memory_flush(struct fdl_sink *sink, struct fdl_err *err)
{
    (void)sink, (void)err;
    return FDL_OK;
}

static void memory_free(struct fdl_sink *sink)
{
    free(((struct memory_sink *)sink)->data);
    free(sink);
}

/* A sink of `size` bytes, FDL_SIZE_UNKNOWN allowed, with memory for `room` of them. */
static struct memory_sink *memory_sink_new(uint64_t size, size_t room)
{
    static const struct fdl_sink_ops ops = {memory_pwrite, memory_zero, memory_flush,
                                            memory_free};
    struct memory_sink *m = calloc(1, sizeof *m);
    struct fdl_err err;

    assert(m && (m->data = malloc(room ? room : 1)));
    m->room = room;
    memset(m->data, MEMORY_PATTERN, room < PATTERN_MAX ? room : PATTERN_MAX);
    assert(fdl_sink_init(&m->base, &ops, size, 0, &err) == FDL_OK);
    return m;
}

/* Every byte of the first `len` was given exactly once. */
static void memory_sink_check_once(const struct memory_sink *m, uint64_t len)
{
    assert(atomic_load(&m->base.written) + atomic_load(&m->base.zeroed) == len);
}

#endif
