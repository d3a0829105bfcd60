# SPDX-License-Identifier: Apache-2.0
"""What runs on each KVM host: pools, keystore, commands."""
