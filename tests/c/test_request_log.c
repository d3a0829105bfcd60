/* SPDX-License-Identifier: Apache-2.0 */
/* test_request_log.c - every note comes out once, in order; what finds no room is
 * counted. */
#undef NDEBUG
#include "source/request_log.h"

#include <assert.h>

#define MORE 7

static void add(struct fdl_request_log *log, int conn, uint64_t off)
{
    struct fdl_request_tap tap = {.log = log, .conn = conn, .mirror = conn + 1};

    fdl_request_log_add(&tap, &(struct fdl_request_note){.off = off});
}

static void notes_come_out_once_and_in_order(void)
{
    struct fdl_request_log *log = fdl_request_log_new();
    struct fdl_request_note out[5];
    uint64_t added = 0, drained = 0;
    size_t lost;

    assert(log);
    while (drained < 3 * FDL_REQUEST_NOTES_MAX) {
        for (int i = 0; i < 9 && added < 3 * FDL_REQUEST_NOTES_MAX; i++, added++)
            if (added - drained < FDL_REQUEST_NOTES_MAX - 9)
                add(log, 3, added);
            else
                break;
        size_t n = fdl_request_log_drain(log, out, 5, &lost);
        assert(lost == 0);
        for (size_t i = 0; i < n; i++) {
            assert(out[i].off == drained++);
            assert(out[i].conn == 3 && out[i].mirror == 4);
        }
    }
    assert(fdl_request_log_drain(log, out, 5, &lost) == 0);
    fdl_request_log_free(log);
}

static void what_finds_no_room_is_counted_once(void)
{
    struct fdl_request_log *log = fdl_request_log_new();
    struct fdl_request_note out[1];
    size_t lost;

    assert(log);
    for (uint64_t i = 0; i < FDL_REQUEST_NOTES_MAX + MORE; i++)
        add(log, 1, i);
    assert(fdl_request_log_drain(log, out, 1, &lost) == 1);
    assert(lost == MORE && out[0].off == 0);
    add(log, 1, 4711);
    for (uint64_t i = 1; i < FDL_REQUEST_NOTES_MAX; i++) {
        assert(fdl_request_log_drain(log, out, 1, &lost) == 1);
        assert(lost == 0 && out[0].off == i);
    }
    assert(fdl_request_log_drain(log, out, 1, &lost) == 1 && out[0].off == 4711);
    fdl_request_log_free(log);
}

int main(void)
{
    notes_come_out_once_and_in_order();
    what_finds_no_room_is_counted_once();
    fdl_request_log_free(NULL);
    return 0;
}
