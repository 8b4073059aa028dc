#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the C test of buffers that other drivers export, in every mode.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")"/lib.sh

relay_in_modes dmabuf
