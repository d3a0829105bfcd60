# SPDX-License-Identifier: Apache-2.0
"""The performance suite: scenarios, rivals, method, reports and the regression gate."""
