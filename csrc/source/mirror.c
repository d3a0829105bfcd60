/* SPDX-License-Identifier: Apache-2.0 */
#include "source/mirror.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fdl_mirror *fdl_mirror_new(enum fdl_mirror_kind kind, const char *url,
                                  const char *headers)
{
    struct fdl_mirror *m = calloc(1, sizeof *m);

    if (!m)
        return NULL;
    pthread_mutex_init(&m->lock, NULL);
    m->kind = kind;
    m->fd = -1;
    m->url = strdup(url);
    m->headers = headers ? strdup(headers) : NULL;
    if (!m->url || (headers && !m->headers)) {
        fdl_mirror_free(m);
        return NULL;
    }
    m->priority = 999999;
    m->max_conns = m->cap = 1;
    m->run_max = FDL_RUN_FIRST;
    m->total = m->expected = UINT64_MAX;
    fdl_err_clear(&m->last_err);
    return m;
}

void fdl_mirror_free(struct fdl_mirror *m)
{
    if (!m)
        return;
    pthread_mutex_destroy(&m->lock);
    if (m->fd >= 0)
        close(m->fd);
    free(m->url);
    free(m->headers);
    free(m->final_url);
    free(m->location);
    free(m);
}

bool fdl_mirror_can_join(struct fdl_mirror *m)
{
    if (m->kind != FDL_MIRROR_HTTP || m->provable)
        return true;
    pthread_mutex_lock(&m->lock);
    bool can = !m->pinned || m->etag[0] || m->last_modified[0];
    pthread_mutex_unlock(&m->lock);
    return can;
}
