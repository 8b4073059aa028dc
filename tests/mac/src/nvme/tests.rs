// SPDX-License-Identifier: GPL-2.0
//! The controller against RAM of its own, driven as a driver does.
