# SPDX-License-Identifier: Apache-2.0
"""What publishers put beside an image: which bytes are right, and who vouches for that.

Readers are pure functions over bytes; signatures are checked by GnuPG's own verifier.
"""
