/* SPDX-License-Identifier: Apache-2.0 */
/* source/stream_http_redirects.c - the way of a request: from the typed URL over
 * redirects, each checked, to a response that is checked before a byte of it is given
 * away; and back to the typed URL where a redirect led to a bad copy. */
#include "source/stream_http_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "source/response.h"

/* Copies to try before an error counts. */
#define COPIES_MAX 4
/* Times that one request is made: without If-Range, without Range. */
#define ASK_MAX 4

/* One pass from the first request to the last. */
struct way {
    const char *avoid;         /* BORROWED or NULL: where the pass before ended badly */
    const struct fdl_err *why; /* BORROWED: what it ended with */
    char *end;                 /* OWNED: where this one ended */
    bool led;                  /* a redirect led there, now or earlier */
    bool again;                /* no response: retry, the mirror's facts have changed */
};

/* ---- where redirects led -----------------------------------------------------------
 */

static void remember(struct fdl_mirror *m, const char *url, enum fdl_addr_via via,
                     enum fdl_addr_class from)
{
    pthread_mutex_lock(&m->lock);
    free(m->final_url);
    m->final_url = strdup(url);
    m->final_via = via;
    m->final_from = from;
    pthread_mutex_unlock(&m->lock);
}

static void forget(struct fdl_mirror *m, const char *url)
{
    pthread_mutex_lock(&m->lock);
    if (m->final_url && url && strcmp(m->final_url, url) == 0) {
        free(m->final_url);
        m->final_url = NULL;
    }
    pthread_mutex_unlock(&m->lock);
}

/* Whether the typed URL may know a better copy: everything that is the copy's fault.
 * What the policy refuses is not retried. */
static bool is_the_copys(int rc)
{
    return rc == FDL_E_NET || rc == FDL_E_HTTP_STATUS || rc == FDL_E_HTTP_PROTOCOL ||
           rc == FDL_E_TLS_TRUST || rc == FDL_E_ORIGIN_CHANGED;
}

void fdl_http_give_up(struct http_stream *s, int rc)
{
    if (is_the_copys(rc))
        forget(s->base.mirror, s->led_to);
}

/* If a digest decides, the tags of one copy say nothing about the next one's. False:
 * the mirror's are still those of another copy. */
static bool adopt(struct fdl_mirror *m, const struct fdl_location *p)
{
    pthread_mutex_lock(&m->lock);
    if (!fdl_location_is(p, m->location) && (m->provable || !m->location)) {
        if (m->location)
            m->etag[0] = m->weak_etag[0] = m->last_modified[0] = '\0';
        free(m->location);
        m->location = fdl_location_url(p);
    }
    bool here = !m->location || fdl_location_is(p, m->location);
    pthread_mutex_unlock(&m->lock);
    return here;
}

/* ---- header fields of a redirect ----------------------------------
 */

static bool is_told(struct fdl_str name)
{
    static const char *const reported[] = {"link", "digest", "repr-digest"};

    for (size_t i = 0; i < sizeof reported / sizeof *reported; i++)
        if (name.len == strlen(reported[i]) &&
            strncasecmp(name.ptr, reported[i], name.len) == 0)
            return true;
    return false;
}

static char *reported_fields(const struct fdl_http_head *head)
{
    size_t len = 0;
    char *text;

    for (size_t i = 0; i < head->n_fields; i++)
        len += head->fields[i].name.len + head->fields[i].value.len + 3;
    text = malloc(len + 1);
    if (!text)
        return NULL;
    size_t at = 0;
    for (size_t i = 0; i < head->n_fields; i++) {
        const struct fdl_http_field *f = &head->fields[i];
        if (!is_told(f->name))
            continue;
        memcpy(text + at, f->name.ptr, f->name.len);
        at += f->name.len;
        text[at++] = ':';
        memcpy(text + at, f->value.ptr, f->value.len);
        at += f->value.len;
        text[at++] = '\n';
    }
    text[at] = '\0';
    return text;
}

void fdl_http_drop_redirects(struct http_stream *s)
{
    for (size_t i = 0; i < s->n_redirects; i++) {
        free(s->redirects[i].url);
        free(s->redirects[i].fields);
    }
    s->n_redirects = 0;
}

static void note_redirect(struct http_stream *s, const char *url)
{
    struct fdl_redirect *r = &s->redirects[s->n_redirects];

    if (!s->keep_redirects || s->n_redirects == FDL_REDIRECTS_MAX)
        return;
    *r = (struct fdl_redirect){
        .url = strdup(url), .fields = reported_fields(&s->head), .peer = s->base.peer};
    if (r->url && r->fields) {
        s->n_redirects++;
    } else {
        free(r->url);
        free(r->fields);
    }
}

/* ---- one pass ----------------------------------------------------------------------
 */

static int open_body(struct http_stream *s, const struct fdl_location *p, uint64_t off,
                     uint64_t len, bool *again, struct fdl_err *err)
{
    struct fdl_request request = {.off = off,
                                  .len = len,
                                  .ranged = s->ranged,
                                  .if_range = s->if_range,
                                  .anonymous = fdl_conn_wants_identity(s->conn),
                                  .target = p->target};
    struct fdl_response response;
    int status = s->head.status;

    s->clean_end = s->head.keep_alive && s->head.framing != FDL_HTTP_UNTIL_CLOSE;
    s->body_open = true;
    if (status < 300)
        request.elsewhere = !adopt(s->base.mirror, p);
    int rc = fdl_response_check(s->base.mirror, &s->head, &request, &response, err);
    *again = rc == FDL_OK && response.again;
    if (rc != FDL_OK || *again) {
        fdl_http_drop(s);
        return rc;
    }
    s->left = response.left;
    s->base.off = response.off;
    s->base.end = response.end;
    s->base.whole = response.whole;
    s->packed = response.packed;
    return fdl_http_body_open(s, err);
}

/* Moves u to where the response says; the response itself is read away. */
static int follow(struct http_stream *s, CURLU *u, const struct fdl_location *at,
                  struct fdl_err *err)
{
    if (!s->net->follow_redirects)
        return fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                        "a redirect, and none is to be followed "
                        "(--no-follow-redirects; store.download.follow.redirects)");
    int rc = fdl_location_follow(u, s->head.location, at, err);
    if (rc != FDL_OK)
        return rc;
    s->left = s->head.framing == FDL_HTTP_LENGTH ? s->head.content_length : 0;
    s->clean_end = s->head.keep_alive && s->head.framing != FDL_HTTP_UNTIL_CLOSE;
    s->body_open = true;
    fdl_http_body_drain(s);
    return FDL_OK;
}

static char *text_of(CURLU *u)
{
    char *url = NULL, *copy = NULL;

    if (curl_url_get(u, CURLUPART_URL, &url, 0) == CURLUE_OK)
        copy = strdup(url);
    curl_free(url);
    return copy;
}

/* The mirror's URL, or where redirects from it led before. */
static CURLU *start(struct fdl_mirror *m, bool *led, enum fdl_addr_via *via,
                    enum fdl_addr_class *from)
{
    CURLU *u = curl_url();

    pthread_mutex_lock(&m->lock);
    *led = m->final_url != NULL;
    *via = *led ? m->final_via : m->via;
    *from = *led ? m->final_from : m->from;
    if (u &&
        curl_url_set(u, CURLUPART_URL, *led ? m->final_url : m->url, 0) != CURLUE_OK) {
        curl_url_cleanup(u);
        u = NULL;
    }
    pthread_mutex_unlock(&m->lock);
    return u;
}

static int go_once(struct http_stream *s, uint64_t off, uint64_t len, struct way *w,
                   struct fdl_err *err)
{
    struct fdl_mirror *m = s->base.mirror;
    struct fdl_location p = {0};
    enum fdl_addr_via via;
    enum fdl_addr_class from;
    CURLU *u = start(m, &w->led, &via, &from);
    int rc = FDL_OK;

    if (!u)
        return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET, "the URL cannot be used");
    fdl_http_drop_redirects(s);
    for (int hops = 0;; hops++) {
        fdl_location_clear(&p);
        free(w->end);
        w->end = text_of(u);
        if (!w->end) {
            rc = fdl_nomem(err, "a redirect");
            break;
        }
        if (w->avoid && strcmp(w->avoid, w->end) == 0) {
            w->led = false; /* the typed URL knows no other copy */
            *err = *w->why;
            rc = err->code;
            break;
        }
        rc = fdl_location_of(u, &p, err);
        s->redirected = w->led;
        if (rc == FDL_OK)
            rc = fdl_http_exchange(s, &p, via, from, off, len, err);
        if (rc != FDL_OK)
            break;
        if (!fdl_location_is_redirect(s->head.status)) {
            rc = open_body(s, &p, off, len, &w->again, err);
            if (rc == FDL_OK && hops > 0)
                remember(m, w->end, via, from);
            break;
        }
        if (hops == FDL_REDIRECTS_MAX) {
            rc = fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET, "too many redirects");
            break;
        }
        note_redirect(s, w->end);
        rc = follow(s, u, &p, err);
        if (rc != FDL_OK)
            break;
        w->led = true;
        via = FDL_VIA_LINKED;
        from = s->base.peer;
    }
    if (rc != FDL_OK)
        fdl_http_drop(s);
    fdl_location_clear(&p);
    curl_url_cleanup(u);
    return rc;
}

int fdl_http_go(struct http_stream *s, uint64_t off, uint64_t len, struct fdl_err *err)
{
    int rc, copies = 1, asked = 1;
    struct fdl_err now, before;
    char *avoid = NULL;

    fdl_err_clear(&before);
    for (;; before = now) {
        struct way w = {.avoid = avoid, .why = &before};
        rc = go_once(s, off, len, &w, &now);
        free(avoid);
        avoid = NULL;
        if (rc == FDL_OK) {
            free(s->led_to);
            s->led_to = w.led ? w.end : NULL;
            w.end = w.led ? NULL : w.end;
        } else if (w.led && is_the_copys(rc)) {
            forget(s->base.mirror, w.end);
            avoid = w.end;
            w.end = NULL;
        }
        free(w.end);
        if (rc == FDL_OK ? !w.again || asked++ == ASK_MAX
                         : !avoid || copies++ == COPIES_MAX)
            break;
    }
    free(avoid);
    if (rc != FDL_OK && err)
        *err = now;
    return rc;
}
