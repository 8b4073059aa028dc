#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the C test of memory mapped into user space, in every mode.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")"/lib.sh

relay_in_modes mmap
