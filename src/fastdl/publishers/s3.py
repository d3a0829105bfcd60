# SPDX-License-Identifier: Apache-2.0
"""From ``s3://bucket/key`` to a signed https URL: by botocore, or by a command of the user.

``?versionId=ID`` behind the key names a version of the object.

botocore (extra ``s3``) finds credentials where every AWS tool does: the environment, profiles,
roles, the instance. None of them are kept here.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from typing import Final, NamedTuple

from fastdl.errors import TrustError, UsageError
from fastdl.model.url import MAX_SENT_URL, Url

SCHEME: Final = "s3://"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_VERSION: Final = re.compile(r"(.*)\?versionId=([A-Za-z0-9._~-]{1,1024})")
_COMMAND_S: Final = 60.0


class StoredObject(NamedTuple):
    """A *key* of a *bucket*; *version* None is the latest."""

    bucket: str
    key: str
    version: str | None


class Signing(NamedTuple):
    """*command*: what prints a signed URL for its last argument; without it botocore signs.

    *endpoint*: the URL of a store other than AWS, None for botocore's default. *seconds*: how long
    a link should be valid. *anonymous*: links are not signed; None: where there are no credentials.
    """

    command: tuple[str, ...] = ()
    endpoint: str | None = None
    seconds: int = 3600
    anonymous: bool | None = False


def is_object(source: str) -> bool:
    """Whether a source is an S3 object."""
    return source[: len(SCHEME)].lower() == SCHEME


def parse_object(source: str) -> StoredObject:
    """The object that *source* names, its key as written there; UsageError."""
    bucket, slash, key = source[len(SCHEME) :].partition("/")
    version = None
    if found := _VERSION.fullmatch(key):
        key, version = found[1], found[2]
    if not slash or not key or len(key.encode(errors="replace")) > 1024:
        raise UsageError("an object is s3://BUCKET/KEY, with a key of at most 1024 bytes")
    if _BUCKET.fullmatch(bucket) is None or not key.isprintable() or key.endswith("/"):
        raise UsageError("an object is s3://BUCKET/KEY, with a bucket in lower case")
    return StoredObject(bucket, key, version)


def signed_url(source: str, how: Signing) -> str:
    """A URL of the object *source* that is valid for a while. It is a secret.

    UsageError: no botocore, or the command printed no signed URL. TrustError: no credentials.
    """
    wanted = parse_object(source)
    text = _printed(source, how.command) if how.command else _by_botocore(wanted, how)
    url = Url.parse(text, most=MAX_SENT_URL)
    if not url.is_http:
        raise UsageError("a signed link is an http or https URL")
    return text


def _printed(source: str, command: Sequence[str]) -> str:
    """The first line that *command* prints; its standard error is ours."""
    try:
        done = subprocess.run(
            [*command, source],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_COMMAND_S,
            check=False,
        )
    except OSError as exc:
        raise UsageError(f"the command that signs ({command[0]}) failed: {exc.strerror}") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"the command that signs ({command[0]}) does not end") from None
    line = done.stdout[: MAX_SENT_URL + 1].partition(b"\n")[0].strip().decode("utf-8", "replace")
    if done.returncode != 0 or not line:
        raise UsageError(
            f"the command that signs ({command[0]}) ended with {done.returncode} and "
            + ("a URL" if line else "no URL")
        )
    return line


def _by_botocore(wanted: StoredObject, how: Signing) -> str:
    try:
        import botocore.exceptions
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config
    except ImportError:
        raise UsageError(
            "s3:// needs botocore (the extra 's3' of fastdl), or a command that signs (--presign)"
        ) from None
    try:
        session = botocore.session.get_session()
        known = how.anonymous is not True and session.get_credentials() is not None
        if not known and how.anonymous is False:
            raise TrustError(
                "no credentials were found where AWS tools look for them "
                "(--no-sign-request fetches what everybody may read)"
            )
        client = session.create_client(
            "s3",
            region_name=session.get_config_variable("region") or "us-east-1",
            endpoint_url=how.endpoint,
            config=Config(signature_version="s3v4" if known else UNSIGNED),
        )
        params = {"Bucket": wanted.bucket, "Key": wanted.key}
        if wanted.version is not None:
            params["VersionId"] = wanted.version
        text: str = client.generate_presigned_url(
            "get_object", Params=params, ExpiresIn=how.seconds
        )
    except (botocore.exceptions.BotoCoreError, ValueError) as exc:
        raise TrustError(f"the object's link cannot be signed: {exc}") from None
    return text
