# SPDX-License-Identifier: Apache-2.0
"""The options that ``get`` and ``probe`` share: curl's and aria2's words where they have one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, Final

from fastdl.cli.origin_options import add_origin_options, origin_options_from
from fastdl.cli.parser import Once, Refused
from fastdl.cli.proxy import proxies_from
from fastdl.cli.publisher_options import (
    add_publisher_options,
    checksum_or_list,
    publisher_options_from,
)
from fastdl.errors import CertRejectedError, FastdlError, TrustError, UsageError
from fastdl.model.units import parse_rate, parse_seconds, parse_size

CACERT_MAX: Final = 4 << 20


def _typed(parse: Callable[[str], Any], name: str) -> Callable[[str], Any]:
    """*parse* with its own sentence as argparse's error."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except FastdlError as exc:
            raise argparse.ArgumentTypeError(exc.message) from None

    convert.__name__ = name
    return convert


SIZE = _typed(parse_size, "SIZE")
_RATE = _typed(parse_rate, "RATE")
_SECONDS = _typed(parse_seconds, "SECONDS")
_CHECKSUM = _typed(checksum_or_list, "CHECKSUM")


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Trust, credentials, time limits and address policy."""
    net = parser.add_argument_group("network: trust, proxies, time limits, addresses")
    net.add_argument(
        "--cacert",
        "--ca-certificate",
        metavar="FILE",
        help="certificates to trust in addition to the system's (PEM, DER, PKCS#7)",
    )
    net.add_argument(
        "--keystore", metavar="FILE", help="a keystore with more certificates to trust"
    )
    net.add_argument("--keystore-pass-file", metavar="FILE", help="its passphrase, on one line")
    net.add_argument(
        "-E", "--cert", "--certificate", metavar="FILE", help="client certificate (PEM)"
    )
    net.add_argument("--key", "--private-key", metavar="FILE", help="its private key (PEM)")
    net.add_argument(
        "--key-pass-file",
        metavar="FILE",
        help="the key's passphrase, on one line; fastdl never prompts",
    )
    net.add_argument(
        "-H",
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="sent only to the origins of the given sources; may be repeated",
    )
    net.add_argument("-A", "-U", "--user-agent", metavar="TEXT", help="the header User-Agent")
    net.add_argument("-e", "--referer", metavar="URL", help="the header Referer")
    net.add_argument(
        "-k",
        "--insecure",
        "--no-check-certificate",
        action=Refused,
        const="no option turns the check of certificates off: name the authority with --cacert",
    )
    net.add_argument(
        "-I",
        "--head",
        "--spider",
        action=Refused,
        const="fastdl probe SOURCE shows size, format and digests without a download",
    )
    net.add_argument(
        "-x",
        "--proxy",
        "--all-proxy",
        metavar="URL",
        help="http://, https:// or socks5h:// proxy, '' for none; default: http_proxy, "
        "https_proxy and all_proxy from the environment, as in curl",
    )
    add_origin_options(net)
    net.add_argument(
        "--noproxy",
        "--no-proxy",
        metavar="LIST",
        help="hosts, domains and networks reached without a proxy; default: no_proxy from the "
        "environment",
    )
    net.add_argument("--connect-timeout", type=_SECONDS, metavar="SECONDS", help="default 10")
    net.add_argument(
        "--stall-timeout",
        "--timeout",
        type=_SECONDS,
        metavar="SECONDS",
        help="drop a connection that stays below 1 KiB/s for this long; default 30",
    )
    net.add_argument(
        "--max-time",
        type=_SECONDS,
        metavar="SECONDS",
        help="the most that the whole may take; then it ends with 10, and the same command "
        "resumes; 0: no limit",
    )
    net.add_argument(
        "--retry",
        "-m",
        "--max-tries",
        "--tries",
        type=int,
        metavar="N",
        help="give up a mirror after N failures in a row; default 5",
    )
    net.add_argument(
        "--retry-time",
        "--retry-max-time",
        type=_SECONDS,
        metavar="SECONDS",
        help="give up a mirror this long after the first of its failures in a row; without --retry "
        "their number does not matter; 0: no limit",
    )
    net.add_argument(
        "--retry-delay",
        "--retry-wait",
        "--waitretry",
        type=_SECONDS,
        metavar="SECONDS",
        help="wait this long between them; default: 0.1 s, each time twice as long, at most 8 s",
    )
    net.add_argument(
        "--policy",
        choices=("user", "strict"),
        help="strict: the agent's address policy (no loopback, link-local, metadata addresses)",
    )
    net.add_argument(
        "--allow",
        action="append",
        metavar="CIDR",
        help="exceptions to the address policy; may be repeated",
    )
    net.add_argument(
        "--allow-nfs",
        action="append",
        metavar="CIDR",
        help="with --policy strict: allowed NFS servers; may be repeated",
    )
    net.add_argument(
        "--no-follow-redirects", action="store_true", help="treat a redirect as an error (15)"
    )
    net.add_argument(
        "--metalink-file", metavar="NAME", help="the file to use of a metalink with several"
    )


def network_options_from(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``probe_sync`` and ``fetch_sync`` that these options mean."""
    out: dict[str, Any] = {
        name: value
        for name in (
            "cacert",
            "cert",
            "key",
            "key_pass_file",
            "connect_timeout",
            "stall_timeout",
            "max_time",
            "retry",
            "retry_time",
            "retry_delay",
            "policy",
            "metalink_file",
        )
        if (value := getattr(args, name)) is not None
    }
    for name in ("max_time", "retry_time"):
        if out.get(name) == 0:  # as curl means it
            del out[name]
    proxies = proxies_from(os.environ, proxy=args.proxy, exempt=args.noproxy)
    if proxies is not None:
        out["proxy"] = proxies
    out.update(origin_options_from(args))
    if args.allow:
        out["allowed_cidrs"] = tuple(args.allow)
    if args.allow_nfs:
        out["nfs_servers"] = tuple(args.allow_nfs)
    if args.no_follow_redirects:
        out["follow_redirects"] = False
    headers = [_header(text) for text in args.header]
    if args.user_agent is not None:
        headers.append(("User-Agent", args.user_agent))
    if args.referer is not None:
        headers.append(("Referer", args.referer))
    if headers:
        out["headers"] = tuple(headers)
    if args.keystore_pass_file and not args.keystore:
        raise UsageError("--keystore-pass-file needs --keystore")
    if args.keystore:
        from fastdl.trust.keystore import load_anchors  # cryptography is heavy

        out["anchors"] = load_anchors(args.keystore, args.keystore_pass_file)
    if args.cacert and (certificates := _other_certificates(args.cacert)):
        out["anchors"] = (*out.get("anchors", ()), *certificates)
        del out["cacert"]
    return out


def _other_certificates(path: str) -> tuple[str, ...]:
    """Return what a file of certificates holds in DER or PKCS#7, as PEM; nothing where it has
    certificates in PEM, or cannot be read, which the engine checks."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            data = file.read(CACERT_MAX)
    except OSError:
        return ()
    if b"CERTIFICATE-----" in data:
        return ()
    from fastdl.trust import certificate  # cryptography is heavy

    try:
        return tuple(one.pem() for one in certificate.read(data))
    except CertRejectedError as exc:
        raise TrustError(f"the certificates in {path} cannot be read: {exc.message}") from None


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise UsageError("a header is written 'NAME: VALUE'")
    return name.strip(), value.strip()


def add_transfer_options(parser: argparse.ArgumentParser) -> None:
    """Everything that ``get`` adds to the network options."""
    what = parser.add_argument_group("landing: what is fetched, and how it is written")
    add_checking_options(what)
    what.add_argument(
        "--target-format",
        choices=("same", "raw"),
        help="default: same for files, raw for devices",
    )
    what.add_argument(
        "--overwrite",
        metavar="SIGNATURE",
        help="what may be overwritten: 'file', or a device's signatures as blkid spells them "
        "(ext4, gpt, LVM2_member…), comma-separated",
    )
    what.add_argument(
        "--verify-readback", action="store_true", help="read the target back and compare"
    )
    what.add_argument(
        "--zero-rest", action="store_true", help="zero a device after the end of the image"
    )
    what.add_argument(
        "--no-detect-zeros",
        action="store_true",
        help="write data that is all zeros instead of zeroing (devices, sparse files)",
    )
    what.add_argument("--no-resume", action="store_true", help="start over instead of resuming")
    add_speed_options(parser)
    add_network_options(parser)


def add_checking_options(what: argparse._ArgumentGroup) -> None:
    """What is expected of the source's bytes."""
    what.add_argument(
        "--checksum",
        type=_CHECKSUM,
        action=Once,
        metavar="CHECKSUM",
        help="'{SHA-256}HEX' or sha-256:HEX, of the bytes as downloaded; or the URL or path of a "
        "list that gives it (SHA256SUMS, CHECKSUM, NAME.sha256), URL#NAME for another entry",
    )
    add_publisher_options(what)
    what.add_argument(
        "--require-checksum",
        action="store_true",
        help="refuse (15) to start if no checksum is known",
    )
    what.add_argument(
        "--require-whole-digest",
        action="store_true",
        help="compute a metalink's digest of the whole file also where its pieces prove the bytes",
    )
    what.add_argument(
        "--source-format",
        default="auto",
        metavar="FORMAT",
        help="auto (default), raw, qcow2, iso, vhd, vhdx, vmdk, vdi",
    )
    what.add_argument(
        "--max-virtual-size", type=SIZE, metavar="SIZE", help="refuse larger images (25)"
    )
    what.add_argument(
        "--max-ratio",
        type=int,
        metavar="N",
        help="refuse compressed data (25) that expands to more than N times its size, once the"
        " output exceeds 1 GiB, not counting zeros; default 1000, 0: no limit",
    )


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """Connections, rate and memory."""
    speed = parser.add_argument_group("speed: connections, rate, memory")
    speed.add_argument(
        "--max-connections", "--split", type=int, metavar="N", help="in all; default 32"
    )
    speed.add_argument(
        "--max-connections-per-origin",
        "--max-connection-per-server",
        type=int,
        metavar="N",
        help="default: what its kind stands (docs/network.md), while more are faster",
    )
    speed.add_argument(
        "--limit-rate",
        "--max-overall-download-limit",
        type=_RATE,
        metavar="RATE",
        help="bytes/s, for all files together; K, M, G suffixes",
    )
    speed.add_argument(
        "--max-download-limit", type=_RATE, metavar="RATE", help="bytes/s, for each file"
    )
    speed.add_argument(
        "--window", type=SIZE, metavar="SIZE", help="most memory for data; default 64M"
    )
    speed.add_argument(
        "--block-size",
        type=SIZE,
        metavar="SIZE",
        help="unit of receiving, hashing and writing: a power of two from 64K to 16M, at most "
        "an eighth of the window; smaller if a metalink's pieces require it; default 1M",
    )


def options_from(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``fetch_sync``; a verb may have left options out."""
    out = network_options_from(args)
    out.update(
        {
            name: value
            for name in (
                "checksum",
                "target_format",
                "max_virtual_size",
                "max_ratio",
                "overwrite",
                "max_connections",
                "max_connections_per_origin",
                "limit_rate",
                "window",
                "block_size",
                "write_metalink",
            )
            if (value := getattr(args, name, None)) is not None
        }
    )
    out.update(publisher_options_from(args))
    out["source_format"] = args.source_format
    for name in ("require_checksum", "require_whole_digest", "verify_readback", "zero_rest"):
        if getattr(args, name, False):
            out[name] = True
    if getattr(args, "no_detect_zeros", False):
        out["detect_zeros"] = False
    if getattr(args, "no_resume", False):
        out["resume"] = False
    return out
