# SPDX-License-Identifier: Apache-2.0
"""Virtual machines of this host: their root disks, their domains, their consoles."""
