/* SPDX-License-Identifier: Apache-2.0 */
#include "net/tls.h"

#include <arpa/inet.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

/* Measured: 6-13 % less processor time over https. */
#define READ_AHEAD (64 * 1024)
#define HOST_MAX 256

static int refuse(struct fdl_err *err, const char *why)
{
    return fdl_fail(err, FDL_E_TLS_TRUST, FDL_NO_OFFSET, why);
}

/* ---- who we are ---- */

void fdl_identity_free(struct fdl_identity *identity)
{
    if (!identity)
        return;
    X509_free(identity->cert);
    sk_X509_pop_free(identity->chain, X509_free);
    EVP_PKEY_free(identity->key);
    free(identity);
}

struct passphrase {
    const char *text; /* NULL: none */
    bool wanted;
};

/* pem_password_cb. OpenSSL's default prompts on the terminal, and waits. */
static int give_passphrase(char *buf, int size, int writing, void *arg)
{
    struct passphrase *pass = arg;
    size_t len = pass->text ? strlen(pass->text) : 0;

    (void)writing;
    pass->wanted = true;
    if (!pass->text || size < 0 || len > (size_t)size)
        return -1;
    memcpy(buf, pass->text, len);
    return (int)len;
}

static bool read_certs(struct fdl_identity *out, BIO *bio)
{
    struct passphrase none = {NULL, false};
    X509 *next;

    out->cert = PEM_read_bio_X509_AUX(bio, NULL, give_passphrase, &none);
    out->chain = sk_X509_new_null();
    if (!out->cert || !out->chain)
        return false;
    while ((next = PEM_read_bio_X509(bio, NULL, give_passphrase, &none)) != NULL) {
        if (sk_X509_push(out->chain, next) <= 0) {
            X509_free(next);
            return false;
        }
    }
    return true;
}

int fdl_identity_from_pem(const char *cert, size_t cert_len, const char *key,
                          size_t key_len, const char *pass, struct fdl_identity **out,
                          struct fdl_err *err)
{
    struct fdl_identity *made = calloc(1, sizeof *made);
    struct passphrase phrase = {pass, false};
    int rc = FDL_OK;

    if (cert_len > INT_MAX || key_len > INT_MAX) {
        free(made);
        return refuse(err, "the client certificate or its key is too large");
    }
    BIO *certs = BIO_new_mem_buf(cert, (int)cert_len);
    BIO *keys = BIO_new_mem_buf(key, (int)key_len);
    ERR_clear_error();
    if (!made || !certs || !keys) {
        rc = fdl_nomem(err, "the client certificate");
    } else if (!read_certs(made, certs)) {
        rc = refuse(err, "the client certificate cannot be read: it has to be PEM");
    } else {
        made->key = PEM_read_bio_PrivateKey(keys, NULL, give_passphrase, &phrase);
        if (!made->key && phrase.wanted)
            rc =
                refuse(err, pass ? "the passphrase does not open the client's key"
                                 : "the client's key is protected by a passphrase, and "
                                   "none was given (--key-pass-file)");
        else if (!made->key)
            rc = refuse(err, "the client's key cannot be read: it has to be PEM");
        else if (X509_check_private_key(made->cert, made->key) != 1)
            rc = refuse(err, "the client's key does not belong to its certificate");
    }
    ERR_clear_error();
    BIO_free(certs);
    BIO_free(keys);
    if (rc == FDL_OK)
        *out = made;
    else
        fdl_identity_free(made);
    return rc;
}

/* ---- OpenSSL's results ---- */

static struct fdl_tls *view_of(const SSL *ssl)
{
    return SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
}

static int on_verify(int ok, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct fdl_tls *tls = view_of(ssl);

    if (!ok && tls->verify_error == X509_V_OK) {
        tls->verify_error = X509_STORE_CTX_get_error(store);
        tls->verify_depth = X509_STORE_CTX_get_error_depth(store);
        tls->sent = sk_X509_num(X509_STORE_CTX_get0_untrusted(store));
    }
    return ok;
}

static void on_info(const SSL *ssl, int where, int ret)
{
    struct fdl_tls *tls = view_of(ssl);

    if (where == SSL_CB_READ_ALERT && ret >> 8 == SSL3_AL_FATAL)
        tls->alert = ret & 0xff;
    /* Also each time that there is nothing to read yet; then no error is queued. */
    if (where == SSL_CB_CONNECT_EXIT && ret <= 0)
        tls->last_error = ERR_peek_last_error();
}

/* Called if a server requests a certificate and there is none. */
static int on_identity_wanted(SSL *ssl, X509 **cert, EVP_PKEY **key)
{
    (void)cert, (void)key;
    view_of(ssl)->wants_identity = true;
    return 0;
}

/* ---- configuration ---- */

/* The name of an absolute name is the one without the dot at its end. */
static bool expect_name(SSL_CTX *ctx, const char *host)
{
    X509_VERIFY_PARAM *param = SSL_CTX_get0_param(ctx);
    unsigned char ip[16];
    char name[HOST_MAX];
    size_t len = strlen(host);

    if (len > 0 && host[len - 1] == '.')
        len--;
    if (len == 0 || len >= sizeof name)
        return false;
    memcpy(name, host, len);
    name[len] = '\0';
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT |
                                               X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (inet_pton(AF_INET, name, ip) == 1 || inet_pton(AF_INET6, name, ip) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1;
    return X509_VERIFY_PARAM_set1_host(param, name, 0) == 1;
}

bool fdl_tls_began_with_host(const struct fdl_tls *tls)
{
    return tls->done_with_proxy && !tls->with_proxy;
}

CURLcode fdl_tls_setup(CURL *easy, void *ssl_ctx, void *arg)
{
    struct fdl_tls *tls = arg;
    SSL_CTX *ctx = ssl_ctx;

    (void)easy;
    /* libcurl asks again for each handshake, and the proxy's comes first. Should it
     * ever not, a host is held to the proxy's name: too strict, never too lax. */
    tls->with_proxy = tls->proxy && !tls->done_with_proxy;
    tls->done_with_proxy = true;
    tls->wants_identity = false;
    tls->alert = tls->verify_error = tls->verify_depth = tls->sent = 0;
    tls->last_error = 0;
    SSL_CTX_set_app_data(ctx, tls);
    SSL_CTX_set1_cert_store(ctx, tls->store);
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    if (SSL_CTX_get_security_level(ctx) < 2)
        SSL_CTX_set_security_level(ctx, 2);
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, on_verify);
    SSL_CTX_set_info_callback(ctx, on_info);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_read_buffer_len(ctx, READ_AHEAD);
    if (!expect_name(ctx, tls->with_proxy ? tls->proxy : tls->host))
        return CURLE_SSL_CERTPROBLEM;
    const struct fdl_identity *me = tls->with_proxy ? NULL : tls->identity;
    if (!me) {
        SSL_CTX_set_client_cert_cb(ctx, on_identity_wanted);
    } else if (SSL_CTX_use_cert_and_key(ctx, me->cert, me->key, me->chain, 1) != 1) {
        tls->unusable_identity = true;
        return CURLE_SSL_CERTPROBLEM;
    }
    return CURLE_OK;
}

/* ---- why it failed ---- */

/* Each of the two has its sentence for a proxy and for a host. */
#define EITHER(tls, of_proxy, of_host) ((tls)->with_proxy ? (of_proxy) : (of_host))

static const char *why_untrusted(const struct fdl_tls *tls)
{
    switch (tls->verify_error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        if (tls->verify_depth > 0)
            return "a certificate that vouches for the server's has expired";
        return EITHER(tls, "the proxy's certificate has expired",
                      "the server's certificate has expired");
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return EITHER(tls, "the proxy's certificate is not valid yet",
                      "the server's certificate is not valid yet");
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        return EITHER(tls, "the proxy's certificate is for another host name",
                      "the server's certificate is for another host name");
    case X509_V_ERR_EE_KEY_TOO_SMALL:
    case X509_V_ERR_CA_KEY_TOO_SMALL:
    case X509_V_ERR_CA_MD_TOO_WEAK:
        return EITHER(tls, "the proxy's certificate has a weak key or signature",
                      "the server's certificate has a weak key or signature");
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        if (tls->sent > 1)
            break;
        return EITHER(
            tls,
            "the proxy's certificate is not trusted: it is no trusted one, and "
            "no intermediate certificate was sent",
            "the server's certificate is not trusted: no trusted one matches, "
            "and no intermediate certificate was sent");
    default:
        break;
    }
    return EITHER(tls,
                  "the proxy's certificate is not trusted: no trusted certificate or "
                  "authority matches",
                  "the server's certificate is not trusted: no trusted certificate or "
                  "authority matches");
}

int fdl_tls_check_refusal(const struct fdl_tls *tls, struct fdl_err *err)
{
    bool about_us = false;

    switch (tls->alert) {
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
        about_us = true;
        break;
    case SSL_AD_HANDSHAKE_FAILURE: /* what TLS 1.2 has for it */
        about_us = tls->wants_identity;
        break;
    case TLS13_AD_CERTIFICATE_REQUIRED:
        about_us = true;
        break;
    default:
        break;
    }
    if (!about_us)
        return FDL_OK;
    if (tls->with_proxy)
        return refuse(err,
                      "the proxy wants a client certificate, which fastdl does not "
                      "send to proxies");
    return refuse(err, tls->identity
                           ? "the server refuses the client certificate"
                           : "the server wants a client certificate (--cert, --key)");
}

int fdl_tls_explain(const struct fdl_tls *tls, struct fdl_err *err)
{
    int reason = ERR_GET_REASON(tls->last_error);
    bool by_ssl = ERR_GET_LIB(tls->last_error) == ERR_LIB_SSL;

    if (tls->unusable_identity)
        return refuse(err,
                      "the client certificate or its key cannot be used: it may be "
                      "too weak");
    if (tls->verify_error != X509_V_OK)
        return refuse(err, why_untrusted(tls));
    if (fdl_tls_check_refusal(tls, err) != FDL_OK)
        return FDL_E_TLS_TRUST;
    switch (tls->alert) {
    case 0:
        break;
    case SSL_AD_PROTOCOL_VERSION:
        return refuse(err,
                      "the server offers no version of TLS that is safe (1.2, 1.3)");
    case SSL_AD_UNRECOGNIZED_NAME:
        return refuse(err, "the server knows no host of that name");
    case SSL_AD_HANDSHAKE_FAILURE:
    case SSL_AD_INSUFFICIENT_SECURITY:
        return refuse(err, "the server and fastdl have no safe cipher in common");
    default:
        return refuse(err, "the server broke the TLS handshake off");
    }
    if (!by_ssl || reason == SSL_R_UNEXPECTED_EOF_WHILE_READING)
        return fdl_fail(
            err, FDL_E_NET, FDL_NO_OFFSET,
            EITHER(tls, "the connection to the proxy ended during the TLS handshake",
                   "the connection ended during the TLS handshake"));
    switch (reason) {
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
    case SSL_R_RECORD_LENGTH_MISMATCH:
        return refuse(err,
                      EITHER(tls, "the proxy does not use TLS on this port (http://?)",
                             "the server does not use TLS on this port (http://?)"));
    case SSL_R_UNSUPPORTED_PROTOCOL:
        return refuse(err,
                      "the server offers no version of TLS that is safe (1.2, 1.3)");
    case SSL_R_DH_KEY_TOO_SMALL:
        return refuse(err, "the server's key exchange is too weak");
    default:
        return refuse(err, "the TLS handshake failed");
    }
}
