# SPDX-License-Identifier: Apache-2.0
"""What publishers put next to an image: its checksums, and signatures of those.

Readers are pure functions over bytes; ``signatures`` says who checks which signature.
"""
