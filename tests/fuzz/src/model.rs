// SPDX-License-Identifier: GPL-2.0

//! The model host and a driver's steps on it, from the engine's tests.

#[path = "../../engine/src/tests/drive.rs"]
pub(crate) mod drive;
#[path = "../../engine/src/tests/host.rs"]
pub(crate) mod host;
#[path = "../../engine/src/tests/rig.rs"]
pub(crate) mod rig;
