// SPDX-License-Identifier: GPL-2.0

//! See [`apple_dma_fuzz::engine`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| apple_dma_fuzz::engine(data));
