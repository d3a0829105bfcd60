# SPDX-License-Identifier: Apache-2.0
"""The pages of the manager, and the events that keep them current."""
