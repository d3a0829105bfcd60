# SPDX-License-Identifier: Apache-2.0
"""What tests, benchmarks and the demo share: an authority, an origin, a metalink writer.

It knows none of them, and nothing of the product but its values.
"""
