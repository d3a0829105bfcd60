# SPDX-License-Identifier: Apache-2.0
"""How is a block of RC2 decrypted? (RFC 2268)

Java up to 16 encrypts the certificates of a PKCS#12 keystore with 40-bit RC2, which
crypto libraries no longer offer. Those bytes were never secret in earnest; they must be
readable so that the keystore can be rewritten with a real cipher. Decryption only.
"""

from __future__ import annotations

import struct

_PI = bytes.fromhex(
    "d978f9c419ddb5ed28e9fd794aa0d89dc67e37832b76538e624c6488448bfba2"
    "179a59f587b34f1361456d8d09817d32bd8f40eb86b77b0bf09521225c6b4e82"
    "54d66593ce60b21c7356c014a78cf1dc1275ca1f3bbee4d1423dd430a33cb626"
    "6fbf0eda4669075727f21d9bbc944303f811c7f690ef3ee706c3d52fc8661ed7"
    "08e8eade8052eef784aa72ac354d6a2a961ad2715a1549744b9fd05e0418a4ec"
    "c2e0416e0f51cbcc2491af50a1f47039997c3a8523b8b47afc02365b25559731"
    "2d5dfa98e38a92ae05df2910676cbac9d300e6cfe19ea82c6316013f58e289a9"
    "0d38341bab33ffb0bb480c5fb9b1cd2ec5f3db47e5a59c770aa62068fe7fc1ad"
)
_BLOCK = 8


def decrypt_cbc(key: bytes, iv: bytes, data: bytes) -> bytes:
    """The plain blocks of *data*; the padding is the caller's business.

    *key* is used at its full length (5 octets for RC2-40, 16 for RC2-128).
    """
    words = _expand(key)
    plain = bytearray()
    previous = iv
    for at in range(0, len(data), _BLOCK):
        block = data[at : at + _BLOCK]
        plain += bytes(a ^ b for a, b in zip(_decrypt_block(words, block), previous, strict=True))
        previous = block
    return bytes(plain)


def _expand(key: bytes) -> tuple[int, ...]:
    """The 64 words of RFC 2268 section 2, with as many effective bits as the key has."""
    size, last = len(key), 128 - len(key)
    octets = bytearray(key) + bytearray(last)
    for i in range(size, 128):
        octets[i] = _PI[octets[i - 1] + octets[i - size] & 0xFF]
    octets[last] = _PI[octets[last]]
    for i in range(last - 1, -1, -1):
        octets[i] = _PI[octets[i + 1] ^ octets[i + size]]
    return struct.unpack("<64H", octets)


def _decrypt_block(words: tuple[int, ...], block: bytes) -> bytes:
    r = list(struct.unpack("<4H", block))
    at = 63
    for rounds in (5, 6, 5):
        for _ in range(rounds):
            for i, shift in ((3, 5), (2, 3), (1, 2), (0, 1)):
                turned = (r[i] >> shift | r[i] << 16 - shift) & 0xFFFF
                mixed = (r[i - 1] & r[i - 2]) + (~r[i - 1] & r[i - 3])
                r[i] = (turned - words[at] - mixed) & 0xFFFF
                at -= 1
        if at >= 0:
            for i in (3, 2, 1, 0):
                r[i] = (r[i] - words[r[i - 1] & 63]) & 0xFFFF
    return struct.pack("<4H", *r)
