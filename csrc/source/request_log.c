/* SPDX-License-Identifier: Apache-2.0 */
#include "source/request_log.h"

#include <pthread.h>
#include <stdlib.h>

struct fdl_request_log {
    pthread_mutex_t lock;
    size_t first, n; /* a ring */
    size_t lost;
    struct fdl_request_note notes[FDL_REQUEST_NOTES_MAX];
};

struct fdl_request_log *fdl_request_log_new(void)
{
    struct fdl_request_log *log = calloc(1, sizeof *log);

    if (log)
        pthread_mutex_init(&log->lock, NULL);
    return log;
}

void fdl_request_log_free(struct fdl_request_log *log)
{
    if (!log)
        return;
    pthread_mutex_destroy(&log->lock);
    free(log);
}

void fdl_request_log_add(const struct fdl_request_tap *tap,
                         const struct fdl_request_note *note)
{
    struct fdl_request_log *log = tap->log;

    pthread_mutex_lock(&log->lock);
    if (log->n < FDL_REQUEST_NOTES_MAX) {
        struct fdl_request_note *kept =
            &log->notes[(log->first + log->n++) % FDL_REQUEST_NOTES_MAX];
        *kept = *note;
        kept->conn = tap->conn;
        kept->mirror = tap->mirror;
    } else {
        log->lost++;
    }
    pthread_mutex_unlock(&log->lock);
}

size_t fdl_request_log_drain(struct fdl_request_log *log, struct fdl_request_note *out,
                             size_t cap, size_t *lost)
{
    pthread_mutex_lock(&log->lock);
    size_t n = log->n < cap ? log->n : cap;
    for (size_t i = 0; i < n; i++)
        out[i] = log->notes[(log->first + i) % FDL_REQUEST_NOTES_MAX];
    log->first = (log->first + n) % FDL_REQUEST_NOTES_MAX;
    log->n -= n;
    *lost = log->lost;
    log->lost = 0;
    pthread_mutex_unlock(&log->lock);
    return n;
}
