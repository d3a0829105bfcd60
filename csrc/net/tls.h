/* SPDX-License-Identifier: Apache-2.0 */
/* net/tls.h - FETCH: trust anchors, our identity, and why a handshake failed.
 *
 * libcurl performs the handshakes; this configures each one and reads OpenSSL's
 * results: numbers, never texts. */
#ifndef FDL_TLS_H
#define FDL_TLS_H

#include <curl/curl.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* A client's certificate, the chain that goes with it, and its key. */
struct fdl_identity {
    X509 *cert;             /* OWNED */
    STACK_OF(X509) * chain; /* OWNED or NULL */
    EVP_PKEY *key;          /* OWNED */
};

/* From PEM texts, BORROWED; `key` may be the same text. There are no prompts:
 * a protected key is opened by `pass` (NULL: none) or not at all. *out is OWNED.
 * FDL_E_TLS_TRUST. */
int fdl_identity_from_pem(const char *cert, size_t cert_len, const char *key,
                          size_t key_len, const char *pass, struct fdl_identity **out,
                          struct fdl_err *err);
void fdl_identity_free(struct fdl_identity *identity); /* NULL is allowed */

/* One connection's view: at most two handshakes, with an https:// proxy and with the
 * host. Everything BORROWED. */
struct fdl_tls {
    X509_STORE *store;
    const struct fdl_identity *identity; /* NULL: none; only for the host */
    const char *proxy;                   /* NULL: no handshake with a proxy */
    const char *host;
    /* private: of the handshake that came last */
    bool with_proxy, done_with_proxy;
    bool wants_identity; /* a certificate was requested, and there was none */
    bool unusable_identity;
    int alert;                /* of the other side; 0: none */
    int verify_error;         /* X509_V_ERR_*; 0: none */
    int verify_depth;         /* of the certificate that it is about */
    int sent;                 /* certificates that the other side sent */
    unsigned long last_error; /* OpenSSL's code */
};

/* CURLOPT_SSL_CTX_FUNCTION; arg is a struct fdl_tls. Our anchors, our name check
 * (libcurl's still accepts a common name, which RFC 9525, 6.4.4 forbids), our limits.
 */
CURLcode fdl_tls_setup(CURL *easy, void *ssl_ctx, void *arg);

/* The handshake with the host has begun: a connection is there. */
bool fdl_tls_began_with_host(const struct fdl_tls *tls);

/* Why the handshake failed. FDL_E_TLS_TRUST, or FDL_E_NET where it was cut. */
int fdl_tls_explain(const struct fdl_tls *tls, struct fdl_err *err);

/* Under TLS 1.3 a server refuses a client only after the client's handshake is over.
 * FDL_OK where it has not. */
int fdl_tls_check_refusal(const struct fdl_tls *tls, struct fdl_err *err);

#endif
