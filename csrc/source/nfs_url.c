/* SPDX-License-Identifier: Apache-2.0 */
#include "source/nfs_url.h"

#include <curl/curl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void fdl_nfs_url_clear(struct fdl_nfs_url *p)
{
    free(p->host);
    free(p->path);
    free(p->export);
    memset(p, 0, sizeof *p);
}

static bool take_number(const char *text, long most, long *out)
{
    char *end;
    long n = strtol(text, &end, 10);

    if (end == text || *end || n < 0 || n > most)
        return false;
    *out = n;
    return true;
}

static bool take_parameter(struct fdl_nfs_url *p, const char *name, const char *value)
{
    long n = 0;

    if (strcmp(name, "export") == 0) {
        free(p->export);
        p->export = curl_easy_unescape(NULL, value, 0, NULL);
        return p->export && p->export[0] == '/';
    }
    if (strcmp(name, "uid") == 0)
        return take_number(value, INT32_MAX, &p->uid);
    if (strcmp(name, "gid") == 0)
        return take_number(value, INT32_MAX, &p->gid);
    if (!take_number(value, 65535, &n))
        return false;
    if (strcmp(name, "version") == 0)
        p->version = (int)n;
    else if (strcmp(name, "nfsport") == 0)
        p->nfs_port = (int)n;
    else if (strcmp(name, "mountport") == 0)
        p->mount_port = (int)n;
    else
        return false;
    return p->version == 0 || p->version == 3 || p->version == 4;
}

/* Cuts query up. */
static bool take_query(struct fdl_nfs_url *p, char *query)
{
    char *rest = query;

    for (char *word = strsep(&rest, "&"); word; word = strsep(&rest, "&")) {
        char *equals = strchr(word, '=');
        if (!equals)
            return false;
        *equals = '\0';
        if (!take_parameter(p, word, equals + 1))
            return false;
    }
    return true;
}

static bool take_url(CURLU *u, const char *url, struct fdl_nfs_url *p)
{
    char *host = NULL, *port = NULL, *path = NULL, *query = NULL;
    long n = 0;
    bool good = false;

    p->uid = p->gid = -1;
    if (curl_url_set(u, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_PATH, &path, CURLU_URLDECODE) == CURLUE_OK) {
        size_t len = strlen(host);
        bool bracketed = host[0] == '[' && len > 2;
        p->host = bracketed ? strndup(host + 1, len - 2) : strdup(host);
        p->path = strdup(path);
        good = p->host && p->path && path[0] == '/';
        if (curl_url_get(u, CURLUPART_PORT, &port, 0) == CURLUE_OK)
            good = good && take_number(port, 65535, &n);
        p->nfs_port = (int)n;
        if (curl_url_get(u, CURLUPART_QUERY, &query, 0) == CURLUE_OK)
            good = good && take_query(p, query);
    }
    curl_free(host);
    curl_free(port);
    curl_free(path);
    curl_free(query);
    return good;
}

int fdl_nfs_url_parse(const char *url, struct fdl_nfs_url *p, struct fdl_err *err)
{
    CURLU *u = curl_url();
    bool good = u && take_url(u, url, p);

    curl_url_cleanup(u);
    if (good)
        return FDL_OK;
    fdl_nfs_url_clear(p);
    return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET, "the NFS URL cannot be used");
}
