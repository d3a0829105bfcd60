# SPDX-License-Identifier: Apache-2.0
"""A download job from resolve to publish."""
