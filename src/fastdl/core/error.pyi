# SPDX-License-Identifier: Apache-2.0
# Nothing here is called from Python: the other extensions turn C errors into exceptions
# with what error.pxd declares.
