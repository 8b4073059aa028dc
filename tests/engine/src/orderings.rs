// SPDX-License-Identifier: GPL-2.0

//! The orderings of a window's reference word, under a model of weak memory: a thread that has a
//! reference sees the window as it was opened, and closing the window is ordered after all that
//! its users did.
//!
//! The same for pages of the copy pool: the thread that takes a page sees all that its last owner
//! did to it.
//!
//! Only the window and the row of pages are modelled here, with few threads and few steps.
//! Everything around them is tested by `schedules.rs`, where memory is sequentially consistent.

#![allow(dead_code, unused_imports)]
#![cfg(test)]

include!("modules.rs");

mod sync {
    pub(crate) use loom::sync::{
        atomic::{
            AtomicU32,
            AtomicU64, //
        },
        Mutex,
        MutexGuard, //
    };
}

use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan, //
};
use crate::engine::copy::pages::Pages;
use crate::engine::window::{
    Put,
    State,
    Window, //
};
use loom::{
    cell::UnsafeCell,
    sync::Arc,
    thread, //
};

/// A window and a stand-in for the host's mapping behind it.
struct Rig {
    window: Window,
    /// Set while the host has the mapping. Accessed plainly, so that the checker finds an access
    /// that is not ordered against a write.
    mapped: UnsafeCell<bool>,
}

const GPA: u64 = 0x4000_0000;

fn want() -> GpaSpan {
    GpaSpan::new(Gpa::new(GPA + 4096), 4096).expect("a span")
}

impl Rig {
    fn new() -> Arc<Self> {
        let rig = Self {
            window: Window::default(),
            mapped: UnsafeCell::new(false),
        };
        let span = GpaSpan::new(Gpa::new(GPA), 0x4000).expect("a span");
        rig.window.prepare(&span, None);
        Arc::new(rig)
    }

    /// Opens the window from `iova` on; only users have references to it.
    fn open(&self, iova: u64) {
        // SAFETY: The window is closed, and the caller owns it.
        self.mapped.with_mut(|mapped| unsafe { *mapped = true });
        self.window.set_iova(Iova::new(iova));
        self.window.open(false);
        if self.window.settle(true) == Ok(Put::Closed) {
            self.unmap();
        }
    }

    /// Unmaps the window, as the owner of a closed one does.
    fn unmap(&self) {
        // SAFETY: The caller closed the window and owns it.
        self.mapped.with_mut(|mapped| unsafe { *mapped = false });
        self.window.set_state(State::Retired);
    }

    /// Maps, uses and unmaps a buffer as a driver does, if the window serves it.
    fn use_buffer(&self, iova: u64, close: bool) {
        let Some((at, _)) = self.window.take(&want()) else {
            return;
        };
        assert_eq!(at.raw(), iova + 4096, "as it was opened");
        // SAFETY: The reference keeps the window open, so no thread writes.
        assert!(self.mapped.with(|mapped| unsafe { *mapped }));
        let span = IovaSpan::new(at, 4096).expect("a span");
        match self.window.put(&span, close) {
            Ok(Put::Closed) => self.unmap(),
            Ok(Put::Open) => {}
            result => panic!("it was held, and not watched: {result:?}"),
        }
    }
}

#[test]
fn a_user_sees_the_window_as_it_was_opened() {
    loom::model(|| {
        let rig = Rig::new();
        let user = {
            let rig = rig.clone();
            thread::spawn(move || rig.use_buffer(0x8000_0000, true))
        };
        rig.open(0x8000_0000);
        user.join().expect("the thread succeeds");
    });
}

#[test]
fn closing_is_ordered_after_all_users() {
    loom::model(|| {
        let rig = Rig::new();
        // SAFETY: No other thread knows the window yet.
        rig.mapped.with_mut(|mapped| unsafe { *mapped = true });
        rig.window.set_iova(Iova::new(0x8000_0000));
        rig.window.open(false);
        assert_eq!(rig.window.settle(false), Ok(Put::Open));
        let users: Vec<_> = (0..2)
            .map(|_| {
                let rig = rig.clone();
                thread::spawn(move || rig.use_buffer(0x8000_0000, true))
            })
            .collect();
        for user in users {
            user.join().expect("the thread succeeds");
        }
        assert!(!rig.window.close(), "the last one closed it");
    });
}

#[test]
fn reclaiming_is_ordered_after_all_users() {
    loom::model(|| {
        let rig = Rig::new();
        // SAFETY: No other thread knows the window yet.
        rig.mapped.with_mut(|mapped| unsafe { *mapped = true });
        rig.window.set_iova(Iova::new(0x8000_0000));
        rig.window.open(false);
        assert_eq!(rig.window.settle(false), Ok(Put::Open));
        let user = {
            let rig = rig.clone();
            thread::spawn(move || rig.use_buffer(0x8000_0000, false))
        };
        let _ = rig.window.test_and_clear_used();
        if rig.window.close() {
            rig.unmap();
        }
        user.join().expect("the thread succeeds");
    });
}

#[test]
fn a_look_up_does_not_find_what_the_window_serves_next() {
    loom::model(|| {
        let rig = Rig::new();
        // SAFETY: No other thread knows the window yet.
        rig.mapped.with_mut(|mapped| unsafe { *mapped = true });
        rig.window.set_iova(Iova::new(0x8000_0000));
        rig.window.open(false);
        let reader = {
            let rig = rig.clone();
            thread::spawn(move || rig.use_buffer(0x8000_0000, true))
        };
        if rig.window.settle(true) == Ok(Put::Closed) {
            rig.unmap();
            // The window now serves the memory behind it.
            let other = GpaSpan::new(Gpa::new(GPA + 0x4000), 0x4000).expect("a span");
            rig.window.prepare(&other, None);
            // SAFETY: The window is closed, and this thread owns it.
            rig.mapped.with_mut(|mapped| unsafe { *mapped = true });
            rig.window.set_iova(Iova::new(0x9000_0000));
            rig.window.open(false);
            assert_eq!(
                rig.window.settle(true),
                Ok(Put::Closed),
                "a look-up for other memory takes no reference"
            );
        }
        reader.join().expect("the thread succeeds");
    });
}

#[test]
fn a_page_has_one_owner_at_a_time() {
    loom::model(|| {
        let pages = Pages::new();
        assert_eq!(pages.take(62), Some(0));
        // The only two pages that are left, as a run or one by one.
        let row = Arc::new((pages, UnsafeCell::new(0)));
        let users: Vec<_> = (0..2)
            .map(|user| {
                let row = row.clone();
                thread::spawn(move || {
                    if let Some(first) = row.0.take(2) {
                        assert_eq!(first, 62);
                        // SAFETY: The pages belong to this thread.
                        row.1.with_mut(|data| unsafe { *data = user });
                        // SAFETY: As above.
                        assert_eq!(row.1.with(|data| unsafe { *data }), user);
                        row.0.put(first, 2);
                    }
                })
            })
            .collect();
        for user in users {
            user.join().expect("the thread succeeds");
        }
        assert_eq!(row.0.used(), 62);
    });
}
