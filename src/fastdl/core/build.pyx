# SPDX-License-Identifier: Apache-2.0
"""What this build of the core contains."""

cdef extern from *:
    """
    #include <curl/curl.h>
    #include <openssl/crypto.h>
    #ifdef FDL_WITH_NFS
    #define FDL_HAS_NFS 1
    #else
    #define FDL_HAS_NFS 0
    #endif
    #ifdef FDL_WITH_NBD
    #define FDL_HAS_NBD 1
    #else
    #define FDL_HAS_NBD 0
    #endif
    static const char *curl_name(void) { return curl_version_info(CURLVERSION_NOW)->version; }
    static const char *ssl_name(void) { return OpenSSL_version(OPENSSL_VERSION); }
    """
    const char *curl_name()
    const char *ssl_name()
    bint FDL_HAS_NFS
    bint FDL_HAS_NBD


def features():
    """Names of libraries and optional parts, for ``fastdl --version``."""
    out = [f"libcurl {curl_name().decode()}", " ".join(ssl_name().decode().split()[:2])]
    out.append("nfs" if FDL_HAS_NFS else "no nfs")
    out.append("nbd" if FDL_HAS_NBD else "no nbd")
    return out
