# SPDX-License-Identifier: Apache-2.0
"""What ``scripts/soak`` does; see ``__main__``."""
