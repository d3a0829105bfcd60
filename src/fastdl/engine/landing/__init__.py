# SPDX-License-Identifier: Apache-2.0
"""How a source becomes bytes on the target: ``plan`` decides, ``base`` writes it unchanged,
``stream`` and ``qcow2`` decode it while it arrives, ``head`` and ``tables`` read what those
need."""
