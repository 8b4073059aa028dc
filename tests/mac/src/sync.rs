// SPDX-License-Identifier: GPL-2.0

//! Locks and condition variables that stay usable after a holder panicked: the simulation keeps
//! serving its guest, and the panic shows in the log.

use std::{
    sync::{
        Condvar,
        Mutex,
        MutexGuard, //
    },
    time::Duration, //
};

/// Locks `mutex`.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Waits until `changed` is notified.
pub fn wait<'a, T>(changed: &Condvar, state: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    changed.wait(state).unwrap_or_else(|e| e.into_inner())
}

/// Waits until `time` has passed, or until `is_over` returns true after `changed` is notified.
pub fn pause<T>(changed: &Condvar, mutex: &Mutex<T>, time: Duration, is_over: impl Fn() -> bool) {
    let _state = changed
        .wait_timeout_while(lock(mutex), time, |_| !is_over())
        .unwrap_or_else(|e| e.into_inner());
}
