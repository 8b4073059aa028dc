// SPDX-License-Identifier: GPL-2.0

//! The orderings of a window's word of references, under a model of weak memory: who has a
//! reference sees the window as it was opened, and who closes it comes after all who had one.
//!
//! Only the window is modelled, by hand and small. Everything around it is in `schedules.rs`, where
//! memory is sequentially consistent.

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

use addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan, //
};
use loom::{
    cell::UnsafeCell,
    sync::Arc,
    thread, //
};
use engine::window::{
    Put,
    State,
    Take,
    Window, //
};

/// A window with what stands for the host's mapping behind it.
struct Rig {
    window: Window,
    /// Whether the host has the mapping. A plain access, so that one which is not ordered against a
    /// write is found.
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

    /// Opens the window from `iova` on, with no references but those that users take.
    fn open(&self, iova: u64) {
        // SAFETY: The window is closed, and the caller owns it.
        self.mapped.with_mut(|mapped| unsafe { *mapped = true });
        self.window.set_iova(Iova::new(iova));
        self.window.open();
        if self.window.settle(true) == Ok(Put::Closed) {
            self.unmap();
        }
    }

    /// What the owner of a closed window does.
    fn unmap(&self) {
        // SAFETY: Whoever closed the window owns it.
        self.mapped.with_mut(|mapped| unsafe { *mapped = false });
        self.window.set_state(State::Retired);
    }

    /// A driver's mapping, use and unmapping, if the window serves.
    fn use_it(&self, iova: u64, close: bool) {
        match self.window.take(&want(), close) {
            Take::Hit(at, _) => {
                assert_eq!(at.raw(), iova + 4096, "as it was opened");
                // SAFETY: With a reference the mapping stays.
                assert!(self.mapped.with(|mapped| unsafe { *mapped }));
                let span = IovaSpan::new(at, 4096).expect("a span");
                match self.window.put(&span, close) {
                    Ok(Put::Closed) => self.unmap(),
                    Ok(Put::Open) => {}
                    Err(error) => panic!("it was held: {error:?}"),
                }
            }
            Take::Miss => {}
            Take::Closed => self.unmap(),
        }
    }
}

#[test]
fn who_finds_it_open_sees_it_as_it_was_opened() {
    loom::model(|| {
        let rig = Rig::new();
        let user = {
            let rig = rig.clone();
            thread::spawn(move || rig.use_it(0x8000_0000, true))
        };
        rig.open(0x8000_0000);
        user.join().expect("it ran");
    });
}

#[test]
fn who_closes_it_comes_after_all_users() {
    loom::model(|| {
        let rig = Rig::new();
        // SAFETY: Nobody else knows it yet.
        rig.mapped.with_mut(|mapped| unsafe { *mapped = true });
        rig.window.set_iova(Iova::new(0x8000_0000));
        rig.window.open();
        assert_eq!(rig.window.settle(false), Ok(Put::Open));
        let users: Vec<_> = (0..2)
            .map(|_| {
                let rig = rig.clone();
                thread::spawn(move || rig.use_it(0x8000_0000, true))
            })
            .collect();
        for user in users {
            user.join().expect("it ran");
        }
        assert!(!rig.window.close(), "the last one closed it");
    });
}

#[test]
fn who_reclaims_it_comes_after_all_users() {
    loom::model(|| {
        let rig = Rig::new();
        // SAFETY: Nobody else knows it yet.
        rig.mapped.with_mut(|mapped| unsafe { *mapped = true });
        rig.window.set_iova(Iova::new(0x8000_0000));
        rig.window.open();
        assert_eq!(rig.window.settle(false), Ok(Put::Open));
        let user = {
            let rig = rig.clone();
            thread::spawn(move || rig.use_it(0x8000_0000, false))
        };
        let _ = rig.window.test_and_clear_used();
        if rig.window.close() {
            rig.unmap();
        }
        user.join().expect("it ran");
    });
}
