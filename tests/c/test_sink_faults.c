/* SPDX-License-Identifier: Apache-2.0 */
/* test_sink_faults.c - whatever the kernel responds, bytes land or an error says that
 * they did not; a failed flush is never forgotten. */
#undef NDEBUG
#include "sink_rig.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* S03: short writes of every size, EINTR and EAGAIN are data, not failures. */
static void short_writes_and_interruptions_are_no_failures(size_t align)
{
    const size_t size = 24 << 10;
    const int again[] = {EINTR, EAGAIN};
    unsigned char *image = pattern(size);
    struct fdl_err err;
    struct target t;

    if (!file_target(&t, folder(), align, size)) {
        target_free(&t);
        free(image);
        return;
    }
    for (size_t most = 1; most <= 9000; most = most < 70 ? most + 1 : most * 2 - 1) {
        struct fdl_sink *sink = open_sink(&t, size, 0);

        fill(t.buffered, size);
        atomic_store(&fault.write_most, most);
        assert(fdl_sink_pwrite(sink, image, size - 100, 0, &err) == FDL_OK);
        assert(fdl_sink_pwrite(sink, image + size - 100, 100, size - 100, &err) == 0);
        no_faults();
        assert(fdl_sink_flush(sink, &err) == FDL_OK && reads_as(&t, image, size, 0));
        fdl_sink_free(sink);
    }
    for (int i = 0; i < 2; i++) {
        struct fdl_sink *sink = open_sink(&t, size, 0);

        fill(t.buffered, size);
        atomic_store(&fault.write_errno, again[i]);
        atomic_store(&fault.write_times, 5);
        atomic_store(&fault.write_nth, 1);
        assert(fdl_sink_pwrite(sink, image, size, 0, &err) == FDL_OK);
        assert(reads_as(&t, image, size, 0));
        no_faults();
        fdl_sink_free(sink);
    }
    target_free(&t);
    free(image);
}

/* EAGAIN without end ends. */
static void a_target_that_is_never_ready_fails(void)
{
    struct fdl_sink *sink;
    struct fdl_err err;
    struct target t;

    file_target(&t, folder(), 1, 0);
    sink = open_sink(&t, 10, 0);
    atomic_store(&fault.write_errno, EAGAIN);
    atomic_store(&fault.write_times, 1 << 30);
    atomic_store(&fault.write_nth, 1);
    assert(fdl_sink_pwrite(sink, "x", 1, 0, &err) == FDL_E_SINK_IO);
    assert(err.os_errno == EAGAIN && err.offset == 0);
    no_faults();
    fdl_sink_free(sink);
    target_free(&t);
}

/* S01, S02: the class says space or input/output; a job with a hole is never released.
 */
static void a_failed_write_is_reported_and_forbids_release(void)
{
    const struct {
        int os_errno, code;
    } cases[] = {{EIO, FDL_E_SINK_IO},       {ENOSPC, FDL_E_SINK_SPACE},
                 {EDQUOT, FDL_E_SINK_SPACE}, {EFBIG, FDL_E_SINK_SPACE},
                 {EROFS, FDL_E_SINK_IO},     {0, FDL_E_SINK_SPACE}};
    unsigned char *image = pattern(64 << 10);
    struct fdl_err err;
    struct target t;

    file_target(&t, folder(), 1, 64 << 10);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fdl_sink *sink = open_sink(&t, 64 << 10, 4096);

        assert(fdl_sink_begin(sink, &err) == FDL_OK);
        atomic_store(&fault.write_errno, cases[i].os_errno);
        atomic_store(&fault.write_nth, 1);
        assert(fdl_sink_pwrite(sink, image, 64 << 10, 0, &err) == cases[i].code);
        assert(err.offset == 4096);
        no_faults();
        assert(fdl_sink_flush(sink, &err) == FDL_OK);
        assert(fdl_sink_release(sink, &err) == FDL_E_SINK_IO);
        assert(reads_zero(&t, 4096, 0));
        fdl_sink_free(sink);
    }
    target_free(&t);
    free(image);
}

/* fsyncgate: the kernel forgets, we do not. */
static void after_a_failed_flush_nothing_succeeds(void)
{
    unsigned char *image = pattern(MIB);
    struct fdl_sink *sink;
    struct fdl_err err;
    struct target t;
    int calls;

    file_target(&t, folder(), 1, MIB);
    sink = open_sink(&t, MIB, 4096);
    atomic_store(&fault.sync_errno, EIO);
    assert(fdl_sink_flush(sink, &err) == FDL_E_SINK_IO && err.os_errno == EIO);
    calls = atomic_load(&fault.sync_calls);
    assert(fdl_sink_flush(sink, &err) == FDL_E_SINK_IO && err.os_errno == EIO);
    assert(fdl_sink_release(sink, &err) == FDL_E_SINK_IO);
    assert(atomic_load(&fault.sync_calls) == calls);
    no_faults();
    fdl_sink_free(sink);

    sink = open_sink(&t, MIB, 0);
    atomic_store(&fault.sync_errno, EINTR);
    assert(fdl_sink_flush(sink, &err) == FDL_OK);
    assert(fdl_sink_pwrite(sink, image, 1, 0, &err) == FDL_OK);
    atomic_store(&fault.sync_errno, EDQUOT);
    assert(fdl_sink_flush(sink, &err) == FDL_E_SINK_SPACE);
    no_faults();
    fdl_sink_free(sink);

    /* What write-behind was told counts as much. */
    sink = open_sink(&t, MIB, 0);
    atomic_store(&fault.behind_errno, EIO);
    assert(fdl_sink_pwrite(sink, image, MIB, 0, &err) == FDL_OK);
    assert(fdl_sink_flush(sink, &err) == FDL_E_SINK_IO && err.os_errno == EIO);
    no_faults();
    fdl_sink_free(sink);
    target_free(&t);
    free(image);
}

/* Once a file system has refused a direct write it is not asked again. */
static void refused_direct_writes_go_through_the_cache_for_ever(void)
{
    unsigned char *image = pattern(MIB);
    struct fdl_sink *sink;
    struct fdl_err err;
    struct target t;

    if (!file_target(&t, folder(), 512, MIB)) {
        target_free(&t);
        free(image);
        return;
    }
    sink = open_sink(&t, MIB, 0);
    atomic_store(&fault.direct_einval, 1);
    for (int i = 0; i < 16; i++)
        assert(fdl_sink_pwrite(sink, image + i * 65536, 65536, (uint64_t)i * 65536,
                               &err) == FDL_OK);
    assert(atomic_load(&fault.direct_calls) == 1);
    no_faults();
    assert(fdl_sink_flush(sink, &err) == FDL_OK && reads_as(&t, image, MIB, 0));
    fdl_sink_free(sink);
    target_free(&t);
    free(image);
}

/* The ladder is climbed once; what no command does is done by writing. */
static void zeros_are_written_where_no_command_works(void)
{
    const int refusals[] = {EOPNOTSUPP, EINVAL, ENOTTY, ENOSYS, EPERM, EACCES};
    struct fdl_sink_stats stats;
    struct fdl_err err;
    struct target t;

    file_target(&t, folder(), 1, 3 * MIB);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct fdl_sink *sink = open_sink(&t, 3 * MIB, 0);

        fill(t.buffered, 3 * MIB);
        atomic_store(&fault.zero_errno, refusals[i]);
        assert(fdl_sink_zero(sink, 5, 2 * MIB, &err) == FDL_OK);
        assert(fdl_sink_zero(sink, 2 * MIB + 5, MIB - 5, &err) == FDL_OK);
        assert(atomic_load(&fault.zero_calls) == 2); /* ZERO_RANGE and punch, once */
        assert(reads_zero(&t, 3 * MIB - 5, 5));
        fdl_sink_get_stats(sink, &stats);
        assert(stats.zeroed_bytes == 0 && stats.written_bytes == 3 * MIB - 5);
        no_faults();
        fdl_sink_free(sink);
    }
    struct fdl_sink *sink = open_sink(&t, 3 * MIB, 0);

    atomic_store(&fault.zero_errno, EIO);
    assert(fdl_sink_zero(sink, 0, MIB, &err) == FDL_E_SINK_IO);
    no_faults();
    fdl_sink_free(sink);
    target_free(&t);
}

int main(void)
{
    short_writes_and_interruptions_are_no_failures(1);
    short_writes_and_interruptions_are_no_failures(512);
    a_target_that_is_never_ready_fails();
    a_failed_write_is_reported_and_forbids_release();
    after_a_failed_flush_nothing_succeeds();
    refused_direct_writes_go_through_the_cache_for_ever();
    zeros_are_written_where_no_command_works();
    return 0;
}
