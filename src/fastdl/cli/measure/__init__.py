# SPDX-License-Identifier: Apache-2.0
"""``fastdl bench --url``: measures a user's own mirror, network, storage and processor.

``tools`` says how each program is called, ``runs`` runs it, ``rates`` measures the parts alone,
``limit`` decides from these figures what the limit is, ``report`` writes it down.
"""
