# SPDX-License-Identifier: Apache-2.0
"""What may be trusted: certificates as they are pasted (``certificate``), their names
(``alias``), and the keystores that hold them (``keystore``). Agent, manager and command
line ask the same functions."""
