# SPDX-License-Identifier: Apache-2.0
"""How is this host configured? ``agent.properties`` and ``cloud.jks`` of one folder."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastdl.agent import properties
from fastdl.agent.confine import WORKER_USER, Confinement
from fastdl.errors import FastdlError, KeystoreAuthError, TrustError, UsageError
from fastdl.trust.alias import is_reserved
from fastdl.trust.keystore import Item, Keystore, Known, Passphrase

DEFAULT_FOLDER = Path("/etc/cloudstack/agent")
KEYSTORE = "cloud.jks"
PROPERTIES = "agent.properties"

PASSPHRASE = "keystore.passphrase"  # noqa: S105 - the name of a property
TEMPORARY = "direct.download.temporary.download.location"
INTERNAL_SITES = "secstorage.allowed.internal.sites"
NFS_SERVERS = "direct.download.nfs.servers"
CONFINEMENT = "fastdl.confinement"
WORKER = "fastdl.worker.user"
EMULATION = "fastdl.machine.hypervisor"
NATS = "fastdl.nats"


@dataclass(frozen=True, slots=True)
class HostConfig:
    """One host's configuration; the keys of ``values`` are CloudStack's own.

    ``known`` caches the keystore for a process that reads it repeatedly.
    """

    folder: Path
    values: Mapping[str, str] = field(repr=False)
    known: Known | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(cls, folder: Path, *, known: Known | None = None) -> HostConfig:
        """Read the folder's agent.properties; UsageError when it exists but is unreadable."""
        return cls(folder, properties.load(folder / PROPERTIES), known)

    @classmethod
    def ensure(cls, folder: Path) -> HostConfig:
        """As ``load``, but create what is missing: a passphrase and an empty keystore.

        An existing keystore without a passphrase is left alone: KeystoreAuthError.
        """
        config = cls.load(folder)
        try:
            if not config.values.get(PASSPHRASE):
                if config.keystore_path.exists():
                    config.keystore()
                folder.mkdir(parents=True, exist_ok=True)
                fresh = {PASSPHRASE: secrets.token_urlsafe(24)}
                properties.append(folder / PROPERTIES, fresh)
                config = cls.load(folder)
        except OSError as exc:
            raise UsageError(f"{folder} cannot be written: {exc.strerror}") from None
        config.keystore().create()
        return config

    @property
    def keystore_path(self) -> Path:
        """Where the keystore is, or would be."""
        return self.folder / KEYSTORE

    def keystore(self) -> Keystore:
        """The host's keystore; KeystoreAuthError if no passphrase is configured."""
        passphrase = self.values.get(PASSPHRASE)
        if not passphrase:
            raise KeystoreAuthError(f"No password found for keystore: {KEYSTORE}")
        return Keystore(self.keystore_path, Passphrase(passphrase), known=self.known)

    def anchors(self) -> tuple[str, ...]:
        """What https downloads trust besides the system's CAs.

        Nothing if there is no keystore; TrustError if there is one that cannot be read, because its
        anchors, or their revocation, would be ignored.
        """
        return tuple(self.named_anchors().values())

    def named_anchors(self) -> dict[str, str]:
        """As ``anchors``, by alias. The agent's own CA is trusted for its manager, but for no
        origin."""
        return {
            item.alias: item.certificate.pem()
            for item in self.items()
            if item.kind == "trusted" and item.certificate and not is_reserved(item.alias)
        }

    def items(self) -> list[Item]:
        """The keystore's entries, none without a keystore; TrustError when unreadable."""
        try:
            self.keystore_path.lstat()
            return self.keystore().items()
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (FastdlError, OSError) as exc:
            raise TrustError(
                f"the keystore {self.keystore_path} cannot be used, so nothing is trusted: {exc}"
            ) from exc

    @property
    def allowed_cidrs(self) -> tuple[str, ...]:
        """The operator's exceptions to the address policy."""
        return self._list(INTERNAL_SITES)

    @property
    def nfs_servers(self) -> tuple[str, ...]:
        """Networks of the NFS servers that templates may come from."""
        return self._list(NFS_SERVERS)

    def _list(self, name: str) -> tuple[str, ...]:
        return tuple(self.values.get(name, "").replace(",", " ").split())

    @property
    def confinement(self) -> Confinement:
        """How downloads are to be confined; UsageError for an unknown value."""
        word = self.values.get(CONFINEMENT, "").strip() or "best-effort"
        if word not in {"required", "best-effort"}:
            raise UsageError(f"{CONFINEMENT} is required or best-effort, not {word[:40]!a}")
        user = self.values.get(WORKER, "").strip() or WORKER_USER
        return Confinement(required=word == "required", user=user)

    @property
    def kvm(self) -> bool | None:
        """Whether virtual machines are accelerated by KVM, None = where that works; UsageError for
        an unknown value."""
        word = self.values.get(EMULATION, "").strip() or "auto"
        if word not in {"auto", "kvm", "qemu"}:
            raise UsageError(f"{EMULATION} is auto, kvm or qemu, not {word[:40]!a}")
        return None if word == "auto" else word == "kvm"

    @property
    def nats(self) -> str | None:
        """The NATS servers through which managers are reached, None = they are reached directly."""
        return self.values.get(NATS, "").strip() or None

    @property
    def temporary(self) -> Path | None:
        """CloudStack's temporary location, None if it is not configured."""
        text = self.values.get(TEMPORARY, "").strip()
        return Path(text) if text else None
