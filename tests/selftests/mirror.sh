#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the C test of memory of processes that a device uses where it is (HMM), in every mode.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")"/lib.sh

relay_in_modes mirror
