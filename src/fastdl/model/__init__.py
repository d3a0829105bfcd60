# SPDX-License-Identifier: Apache-2.0
"""Values without I/O: URLs, digests, metalinks, images, units."""
