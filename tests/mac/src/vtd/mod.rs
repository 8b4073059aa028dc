// SPDX-License-Identifier: GPL-2.0

//! Managed devices that QEMU itself emulates: their DART is QEMU's VT-d, whose tables are written
//! here.
//!
//! [`tables`] are in guest RAM, which the simulator shares; only [`registers`] need [`qtest`]. QEMU
//! answers qtest under its big lock, under which it also waits for registers of a companion to be
//! read. So batches that call a [`Translator`] have threads of their own, and no lock is held
//! across qtest that a read of a register takes.

pub mod qtest;
pub mod registers;
pub mod tables;

use self::qtest::Client;
use self::registers::{
    Fault,
    Registers, //
};
use self::tables::{
    Arena,
    Root,
    SecondLevel,
    Translated,
    WIDTH, //
};
use crate::bus::Bus;
use crate::companion::Translator;
use crate::memory::GuestRam;
use crate::stats::{
    FaultCause,
    FaultDetail, //
};
use crate::sync::lock;
use anyhow::{
    bail,
    Result, //
};
use std::{
    io,
    path::Path,
    sync::{
        atomic::{
            AtomicBool,
            Ordering, //
        },
        Arc,
        Condvar,
        Mutex,
        OnceLock, //
    },
    thread,
    time::Duration, //
};

/// Interval at which faults are looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Interval of attempts to connect to QEMU.
const RETRY: Duration = Duration::from_millis(10);

/// Time for which a batch waits for QEMU's qtest.
const PATIENCE: Duration = Duration::from_secs(30);

/// Domain of the first managed device; lower ones have other uses.
const FIRST_DOMAIN: u16 = 2;

/// Addresses of interrupt messages, which are never translated.
const MESSAGES: std::ops::Range<u64> = 0xfee0_0000..0xfef0_0000;

/// Returns an error if VT-d cannot translate all of the aperture.
pub fn check_aperture(base: u64, size: u64) -> Result<()> {
    let end = base.saturating_add(size);
    if end > 1 << WIDTH {
        bail!("VT-d translates {WIDTH} bits; the aperture ends at {end:#x}");
    }
    if base < MESSAGES.end && MESSAGES.start < end {
        bail!("the aperture holds addresses of interrupt messages, {MESSAGES:x?}");
    }
    Ok(())
}

/// A managed device behind VT-d.
#[derive(Debug)]
struct Function {
    translated: Translated,
    /// Counts its faults.
    bus: OnceLock<Arc<Bus>>,
}

/// VT-d's share in one managed device.
#[derive(Debug)]
pub struct Part {
    /// Its tables.
    pub tables: SecondLevel,
    /// The guest RAM that its companion must use.
    pub ram: Arc<GuestRam>,
    /// Its translation.
    pub domain: Domain,
}

/// The connection to QEMU's qtest.
#[derive(Debug)]
enum Link {
    /// QEMU has not started yet.
    Waiting,
    /// QEMU answers.
    Up(Registers),
    /// QEMU has ended, or the connection has failed.
    Down,
}

/// QEMU's VT-d.
#[derive(Debug)]
pub struct Vtd {
    functions: Vec<Function>,
    arena: Arc<Arena>,
    root: Root,
    link: Mutex<Link>,
    /// Notified when the link changes.
    changed: Condvar,
    /// The highest tables were made empty, as they must be before the first mapping.
    empty: AtomicBool,
    /// Translation was on when it was last looked at.
    on: AtomicBool,
}

impl Vtd {
    /// Creates VT-d for the managed devices at `bdfs`.
    pub fn new(bdfs: &[u16]) -> Result<(Arc<Self>, Vec<Part>)> {
        let ram = Arc::new(GuestRam::new());
        let arena = Arc::new(Arena::new(ram.clone()));
        let mut functions: Vec<Translated> = Vec::new();
        let mut all = Vec::new();
        for (&bdf, domain) in bdfs.iter().zip(FIRST_DOMAIN..) {
            if functions.iter().any(|other| other.bdf == bdf) {
                bail!("two devices of QEMU have the same address");
            }
            let tables = SecondLevel::new(arena.clone())?;
            let top = tables.top;
            functions.push(Translated { bdf, domain, top });
            all.push(tables);
        }
        let root = Root::new(&arena, functions.clone())?;
        let function = |translated| Function {
            translated,
            bus: OnceLock::new(),
        };
        let vtd = Arc::new(Self {
            functions: functions.into_iter().map(function).collect(),
            arena,
            root,
            link: Mutex::new(Link::Waiting),
            changed: Condvar::new(),
            empty: AtomicBool::new(false),
            on: AtomicBool::new(false),
        });
        let parts = (0..).zip(all).map(|(index, tables)| Part {
            tables,
            // Every connection announces RAM of its own. Tables are written through the first.
            ram: match index {
                0 => ram.clone(),
                _ => Arc::new(GuestRam::new()),
            },
            domain: Domain {
                vtd: vtd.clone(),
                index,
                numbered: AtomicBool::new(false),
            },
        });
        let parts = parts.collect();
        Ok((vtd, parts))
    }

    /// Connects to the qtest socket at `path` once it listens, and collects faults from then on, in
    /// a thread of its own.
    pub fn start(self: &Arc<Self>, path: &Path) -> io::Result<()> {
        let (vtd, path) = (self.clone(), path.to_owned());
        thread::Builder::new()
            .name("vtd".into())
            .spawn(move || vtd.watch(&path))
            .map(drop)
    }

    fn watch(&self, path: &Path) {
        let client = loop {
            match Client::connect(path) {
                Ok(client) => break client,
                Err(_) => thread::sleep(RETRY),
            }
        };
        let link = match Registers::new(client) {
            Ok(registers) => Link::Up(registers),
            Err(error) => {
                log::error!("VT-d: {error}");
                Link::Down
            }
        };
        *lock(&self.link) = link;
        self.changed.notify_all();
        while self.look().is_ok() {
            thread::sleep(LOOK);
        }
    }

    /// Returns whether translation was on when it was last looked at.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Turns translation on if it is off, as a reset of the machine and the guest's kernel leave
    /// it. A kernel that turns it off waits until it is: this must not be called while one starts.
    pub fn translate(&self) -> Result<(), String> {
        self.with(|registers| self.turn_on(registers))
    }

    /// Counts the faults since the last call.
    pub fn look(&self) -> Result<(), String> {
        let (faults, lost) = self.with(|registers| {
            let on = registers.is_on()?;
            self.on.store(on, Ordering::Relaxed);
            registers.take_faults()
        })?;
        for fault in faults {
            self.count(fault);
        }
        if lost {
            log::warn!("VT-d: there were further faults");
        }
        Ok(())
    }

    fn turn_on(&self, registers: &mut Registers) -> io::Result<()> {
        if registers.is_on()? {
            self.on.store(true, Ordering::Relaxed);
            return Ok(());
        }
        self.write_tables().map_err(io::Error::other)?;
        registers.turn_on(self.root.root)?;
        self.on.store(true, Ordering::Relaxed);
        log::info!("VT-d translates");
        Ok(())
    }

    fn write_tables(&self) -> Result<(), tables::Error> {
        if !self.empty.load(Ordering::Relaxed) {
            for function in &self.functions {
                self.arena.zero(function.translated.top)?;
            }
            self.empty.store(true, Ordering::Relaxed);
        }
        self.root.write(&self.arena)
    }

    fn count(&self, fault: Fault) {
        let own = |function: &&Function| function.translated.bdf == fault.bdf;
        let function = self.functions.iter().find(own);
        log::warn!("VT-d: {fault:x?}");
        let function = function.or(self.functions.first());
        let Some(bus) = function.and_then(|function| function.bus.get()) else {
            return;
        };
        let detail = FaultDetail {
            iova: fault.page,
            len: 0,
            first: fault.page,
            direction: fault.direction,
            cause: FaultCause::Unmapped,
            bme_off: false,
            expected: false,
        };
        bus.counters.fault(&bus.name, detail);
    }

    /// Calls `f` with the registers, once QEMU answers.
    fn with<R>(&self, f: impl FnOnce(&mut Registers) -> io::Result<R>) -> Result<R, String> {
        let waiting = |link: &mut Link| matches!(link, Link::Waiting);
        let (mut link, _) = self
            .changed
            .wait_timeout_while(lock(&self.link), PATIENCE, waiting)
            .unwrap_or_else(|e| e.into_inner());
        let registers = match &mut *link {
            Link::Up(registers) => registers,
            Link::Waiting => return Err("QEMU's qtest does not listen".into()),
            Link::Down => return Err("QEMU's qtest has ended".into()),
        };
        f(registers).map_err(|error| {
            log::info!("VT-d: {error}");
            *link = Link::Down;
            format!("qtest: {error}")
        })
    }
}

/// The translation of one device.
#[derive(Debug)]
pub struct Domain {
    /// VT-d.
    pub vtd: Arc<Vtd>,
    /// Index among VT-d's functions.
    index: usize,
    /// The guest has numbered its buses since the machine's reset.
    numbered: AtomicBool,
}

impl Domain {
    /// Counts the device's faults on `bus` from now on.
    pub fn count_on(&self, bus: Arc<Bus>) {
        let _ = self.vtd.functions[self.index].bus.set(bus);
    }
}

impl Translator for Domain {
    fn begin(&self) -> Result<(), String> {
        // The guest's kernel and resets turn translation off, nothing does between batches.
        if self.vtd.is_on() && self.numbered.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.vtd.with(|registers| {
            self.vtd.turn_on(registers)?;
            registers.invalidate_contexts()
        })?;
        self.numbered.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn unmapped(&self) -> Result<(), String> {
        let domain = self.vtd.functions[self.index].translated.domain;
        self.vtd
            .with(|registers| registers.invalidate_domain(domain))
    }

    fn reset(&self) {
        self.numbered.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
