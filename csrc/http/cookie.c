/* SPDX-License-Identifier: Apache-2.0 */
#include "http/cookie.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/addr.h"

struct fdl_cookie {
    char *text;     /* OWNED: name=value */
    size_t n_name;  /* of it */
    char *domain;   /* OWNED, lower case */
    char *path;     /* OWNED */
    bool host_only; /* not for hosts below the domain */
    bool tls;       /* set over TLS, so it goes back over TLS only */
};

/* A field's attributes besides the cookie. */
struct attributes {
    struct fdl_str domain, path;
    bool secure;
    bool expired;
};

void fdl_cookies_init(struct fdl_cookies *jar)
{
    pthread_mutex_init(&jar->lock, NULL);
    jar->n = 0;
}

static void discard(struct fdl_cookie *c)
{
    if (!c)
        return;
    free(c->text);
    free(c->domain);
    free(c->path);
    free(c);
}

void fdl_cookies_destroy(struct fdl_cookies *jar)
{
    for (size_t i = 0; i < jar->n; i++)
        discard(jar->list[i]);
    jar->n = 0;
    pthread_mutex_destroy(&jar->lock);
}

/* ---- reading ----------------------------------------------------------------------
 */

static struct fdl_str trim(struct fdl_str s)
{
    while (s.len > 0 && (s.ptr[0] == ' ' || s.ptr[0] == '\t'))
        s.ptr++, s.len--;
    while (s.len > 0 && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
        s.len--;
    return s;
}

/* Cuts s at the first `mark`: what stands before it is returned, s is the rest. */
static struct fdl_str cut(struct fdl_str *s, char mark)
{
    const char *at = s->len ? memchr(s->ptr, mark, s->len) : NULL;
    struct fdl_str before = {s->ptr, at ? (size_t)(at - s->ptr) : s->len};
    size_t used = at ? before.len + 1 : s->len;

    s->ptr += used;
    s->len -= used;
    return trim(before);
}

static bool is_named(struct fdl_str s, const char *name)
{
    return s.len == strlen(name) && strncasecmp(s.ptr, name, s.len) == 0;
}

static void take_attribute(struct attributes *a, struct fdl_str word, int64_t now_s)
{
    struct fdl_str value = word, name = cut(&value, '=');

    value = trim(value);
    if (is_named(name, "secure")) {
        a->secure = true;
    } else if (is_named(name, "domain")) {
        if (value.len > 0 && value.ptr[0] == '.')
            value.ptr++, value.len--;
        a->domain = value;
    } else if (is_named(name, "path")) {
        a->path = value;
    } else if (is_named(name, "max-age")) {
        /* The job is over before any other number counts. */
        a->expired = value.len > 0 && (value.ptr[0] == '-' || value.ptr[0] == '0');
    } else if (is_named(name, "expires")) {
        int64_t when = fdl_http_parse_date(value.ptr, value.len);
        a->expired = a->expired || (when >= 0 && when <= now_s);
    }
}

static bool ends_in(const char *host, const char *domain)
{
    size_t n = strlen(host), m = strlen(domain);

    return n > m && strcasecmp(host + n - m, domain) == 0 && host[n - m - 1] == '.';
}

/* Whether `host` may set cookies for all of `domain`: one of its own parents, and not a
 * whole top-level domain. */
static bool speaks_for(const char *host, const char *domain)
{
    struct sockaddr_storage ss;

    return strcasecmp(host, domain) == 0 ||
           (ends_in(host, domain) && strchr(domain, '.') &&
            fdl_addr_from_text(host, &ss) == FDL_ADDR_IS_NAME);
}

static char *default_path(const char *target)
{
    size_t n = strcspn(target, "?");

    while (n > 0 && target[n - 1] != '/')
        n--;
    return n > 1 ? strndup(target, n - 1) : strdup("/");
}

static char *pair(struct fdl_str name, struct fdl_str value)
{
    char *text = malloc(name.len + value.len + 2);

    if (!text)
        return NULL;
    memcpy(text, name.ptr, name.len);
    text[name.len] = '=';
    memcpy(text + name.len + 1, value.ptr, value.len);
    text[name.len + 1 + value.len] = '\0';
    return text;
}

static struct fdl_cookie *make(const struct fdl_cookie_location *location,
                               struct fdl_str name, struct fdl_str value,
                               const struct attributes *a)
{
    struct fdl_cookie *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    c->text = pair(name, value);
    c->n_name = name.len;
    c->host_only = a->domain.len == 0;
    c->domain =
        c->host_only ? strdup(location->host) : strndup(a->domain.ptr, a->domain.len);
    c->path = a->path.len > 0 && a->path.ptr[0] == '/'
                  ? strndup(a->path.ptr, a->path.len)
                  : default_path(location->target);
    c->tls = location->tls;
    if (!c->text || !c->domain || !c->path ||
        (!c->host_only && !speaks_for(location->host, c->domain))) {
        discard(c);
        return NULL;
    }
    return c;
}

static bool same_cookie(const struct fdl_cookie *a, const struct fdl_cookie *b)
{
    return a->n_name == b->n_name && memcmp(a->text, b->text, a->n_name) == 0 &&
           strcasecmp(a->domain, b->domain) == 0 && strcmp(a->path, b->path) == 0;
}

static void drop_at(struct fdl_cookies *jar, size_t i)
{
    discard(jar->list[i]);
    memmove(&jar->list[i], &jar->list[i + 1], (jar->n - i - 1) * sizeof *jar->list);
    jar->n--;
}

static bool is_plain(struct fdl_str s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < 0x20 || s.ptr[i] == 0x7F)
            return false;
    return true;
}

void fdl_cookies_take(struct fdl_cookies *jar,
                      const struct fdl_cookie_location *location, struct fdl_str field,
                      int64_t now_s)
{
    struct fdl_str rest = field, text = cut(&rest, ';'), value = text;
    struct fdl_str name = cut(&value, '=');
    struct attributes a = {0};

    value = trim(value);
    if (name.len == 0 || name.len == text.len || text.len > FDL_COOKIE_MAX ||
        !is_plain(text))
        return;
    while (rest.len > 0)
        take_attribute(&a, cut(&rest, ';'), now_s);
    if (a.secure && !location->tls)
        return;
    struct fdl_cookie *c = make(location, name, value, &a);
    if (!c)
        return;
    pthread_mutex_lock(&jar->lock);
    for (size_t i = 0; i < jar->n; i++)
        if (same_cookie(jar->list[i], c)) {
            drop_at(jar, i);
            break;
        }
    if (a.expired) {
        discard(c);
    } else {
        if (jar->n == FDL_COOKIES_MAX)
            drop_at(jar, 0);
        jar->list[jar->n++] = c;
    }
    pthread_mutex_unlock(&jar->lock);
}

/* ---- sending ----------------------------------------------------------------------
 */

static bool path_matches(const char *target, const char *path)
{
    size_t n = strlen(path), have = strcspn(target, "?");

    return have >= n && memcmp(target, path, n) == 0 &&
           (have == n || path[n - 1] == '/' || target[n] == '/');
}

static bool is_for(const struct fdl_cookie *c,
                   const struct fdl_cookie_location *location)
{
    bool same = strcasecmp(location->host, c->domain) == 0;

    return (same || (!c->host_only && speaks_for(location->host, c->domain))) &&
           (!c->tls || location->tls) && path_matches(location->target, c->path);
}

size_t fdl_cookies_render(struct fdl_cookies *jar,
                          const struct fdl_cookie_location *location, char *out,
                          size_t cap)
{
    size_t at = 0;

    out[0] = '\0';
    pthread_mutex_lock(&jar->lock);
    for (size_t i = 0; i < jar->n; i++) {
        const struct fdl_cookie *c = jar->list[i];
        size_t n = strlen(c->text), gap = at ? 2 : 0;
        if (!is_for(c, location) || at + gap + n >= cap)
            continue;
        if (gap)
            memcpy(out + at, "; ", 2);
        memcpy(out + at + gap, c->text, n + 1);
        at += gap + n;
    }
    pthread_mutex_unlock(&jar->lock);
    return at;
}
