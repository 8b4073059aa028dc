#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the C test of buffers that other drivers export, in every mode.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")"/lib.sh

require_engine
ktap_print_header
for mode in "${MODES[@]}"; do
	enter_engine_mode "$mode" || continue
	relay "$mode" "$DIR"/dmabuf
	leave_engine_mode "$mode"
done
ktap_finish_relayed
