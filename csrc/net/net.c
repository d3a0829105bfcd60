/* SPDX-License-Identifier: Apache-2.0 */
#include "net/net.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fdl_net *fdl_net_new(void)
{
    struct fdl_net *net = calloc(1, sizeof *net);

    if (!net)
        return NULL;
    net->store = X509_STORE_new();
    if (!net->store) {
        free(net);
        return NULL;
    }
    /* A pinned leaf or intermediate counts as an anchor. System anchors are
     * self-signed, so the flag adds nothing to what they vouch for. */
    X509_STORE_set_flags(net->store,
                         X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST);
    pthread_mutex_init(&net->load_lock, NULL);
    fdl_cookies_init(&net->cookies);
    net->connect_timeout_ms = 10000;
    net->stall_timeout_ms = 30000;
    net->follow_redirects = true;
    net->user_agent = "fastdl";
    return net;
}

void fdl_net_free(struct fdl_net *net)
{
    if (!net)
        return;
    X509_STORE_free(net->store);
    pthread_mutex_destroy(&net->load_lock);
    fdl_cookies_destroy(&net->cookies);
    fdl_identity_free(net->identity);
    fdl_proxies_clear(&net->proxies);
    fdl_route_clear(&net->route);
    free(net->cidrs);
    free(net->nfs_cidrs);
    free(net);
}

/* False where the operator named a file that cannot be read. */
static bool load_system(X509_STORE *store)
{
    static const char *const bundles[] = {
        "/etc/ssl/certs/ca-certificates.crt", /* Debian, Ubuntu */
        "/etc/pki/tls/certs/ca-bundle.crt",   /* Fedora, RHEL */
        "/etc/ssl/ca-bundle.pem",             /* SUSE */
    };
    const char *env = getenv("SSL_CERT_FILE");
    bool ok = true;

    ERR_clear_error();
    if (env && *env) {
        ok = X509_STORE_load_file(store, env) == 1;
        ERR_clear_error();
        return ok;
    }
    for (size_t i = 0; i < sizeof bundles / sizeof *bundles; i++)
        if (X509_STORE_load_file(store, bundles[i]) == 1)
            return true;
    /* A machine without ca-certificates trusts only what it was given. */
    X509_STORE_set_default_paths(store);
    ERR_clear_error();
    return true;
}

int fdl_net_load_trust(struct fdl_net *net, struct fdl_err *err)
{
    pthread_mutex_lock(&net->load_lock);
    if (net->system_trust && !net->loaded) {
        net->load_failed = !load_system(net->store);
        net->loaded = true;
    }
    bool failed = net->load_failed;
    pthread_mutex_unlock(&net->load_lock);
    return failed ? fdl_fail(err, FDL_E_TLS_TRUST, FDL_NO_OFFSET,
                             "the file named by SSL_CERT_FILE cannot be read")
                  : FDL_OK;
}

/* pem_password_cb: OpenSSL's default prompts on the terminal, and waits. */
static int never_ask(char *buf, int size, int writing, void *arg)
{
    (void)buf, (void)size, (void)writing, (void)arg;
    return -1;
}

int fdl_net_trust_pem(struct fdl_net *net, const char *pem, size_t len,
                      struct fdl_err *err)
{
    int found = 0, rc = FDL_OK;

    if (len > INT32_MAX)
        return fdl_fail(err, FDL_E_TLS_TRUST, FDL_NO_OFFSET,
                        "certificate text too large");
    BIO *bio = BIO_new_mem_buf(pem, (int)len);
    if (!bio)
        return fdl_nomem(err, "the certificates");
    for (;;) {
        X509 *cert = PEM_read_bio_X509_AUX(bio, NULL, never_ask, NULL);
        if (!cert) {
            unsigned long e = ERR_peek_last_error();
            bool end = ERR_GET_LIB(e) == ERR_LIB_PEM &&
                       ERR_GET_REASON(e) == PEM_R_NO_START_LINE;
            if (!end || !found)
                rc = fdl_fail(err, FDL_E_TLS_TRUST, FDL_NO_OFFSET,
                              found ? "a trusted certificate is malformed"
                                    : "no certificate in the trusted certificates");
            break;
        }
        found++;
        int added = X509_STORE_add_cert(net->store, cert);
        X509_free(cert);
        if (!added) {
            rc = fdl_fail(err, FDL_E_TLS_TRUST, FDL_NO_OFFSET,
                          "a trusted certificate cannot be used");
            break;
        }
    }
    ERR_clear_error();
    BIO_free(bio);
    return rc;
}

int fdl_net_use_proxies(struct fdl_net *net, const char *http, const char *https,
                        const char *exempt, struct fdl_err *err)
{
    struct fdl_proxies *p = &net->proxies;
    int rc = http ? fdl_proxy_parse(http, &p->http, err) : FDL_OK;

    if (rc == FDL_OK && https)
        rc = fdl_proxy_parse(https, &p->https, err);
    if (rc != FDL_OK || !exempt)
        return rc;
    p->exempt = strdup(exempt);
    return p->exempt ? FDL_OK : fdl_nomem(err, "the proxies");
}

static int add_cidr(const char *text, struct fdl_cidr **list, size_t *n,
                    struct fdl_err *err)
{
    struct fdl_cidr cidr;

    if (!fdl_cidr_parse(text, &cidr))
        return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET, "malformed address range");
    struct fdl_cidr *grown = realloc(*list, (*n + 1) * sizeof *grown);
    if (!grown)
        return fdl_nomem(err, "the address ranges");
    grown[(*n)++] = cidr;
    *list = grown;
    return FDL_OK;
}

int fdl_net_allow_cidr(struct fdl_net *net, const char *text, struct fdl_err *err)
{
    int rc = add_cidr(text, &net->cidrs, &net->policy.n_allow, err);

    net->policy.allow = net->cidrs;
    return rc;
}

int fdl_net_allow_nfs(struct fdl_net *net, const char *text, struct fdl_err *err)
{
    int rc = add_cidr(text, &net->nfs_cidrs, &net->policy.n_nfs, err);

    net->policy.nfs = net->nfs_cidrs;
    return rc;
}

void fdl_net_note(struct fdl_net *net, const struct sockaddr *sa)
{
    enum fdl_addr_class class = sa ? fdl_addr_classify(sa) : FDL_ADDR_RESERVED;

    atomic_fetch_or_explicit(&net->tried, 1u << class, memory_order_relaxed);
}
