// SPDX-License-Identifier: GPL-2.0

//! VT-d against a model of QEMU's registers.

use super::*;
use crate::addr::Gpa;
use crate::dart::{
    Dart,
    Limits,
    Mode, //
};
use std::{
    collections::BTreeMap,
    io::{
        BufRead,
        BufReader,
        Write, //
    },
    os::unix::net::UnixStream, //
};

const BDF: u16 = 0x28;

/// QEMU's registers: what was written, and the effects that the simulator waits for.
#[derive(Debug, Default)]
struct Model {
    registers: BTreeMap<u64, u64>,
    /// Offsets and values of writes.
    writes: Vec<(u64, u64)>,
}

impl Model {
    fn new() -> Self {
        let mut model = Self::default();
        // Four levels, two fault records at 0x220; pass through, the IOTLB's registers at 0xf0.
        model
            .registers
            .insert(0x08, (1 << 10) | (0x22 << 24) | (1 << 40));
        model.registers.insert(0x10, (1 << 6) | (0xf << 8));
        model
    }

    fn get(&self, offset: u64) -> u64 {
        self.registers.get(&offset).copied().unwrap_or_default()
    }

    fn write(&mut self, offset: u64, value: u64) {
        self.writes.push((offset, value));
        match offset {
            // Commands complete at once. That the root table was set stays.
            0x18 => {
                let status = value | (self.get(0x1c) & (1 << 30));
                self.registers.insert(0x1c, status);
            }
            0x28 | 0xf8 => (),
            0x34 => {
                let status = self.get(0x34) & !(value & 1);
                self.registers.insert(0x34, status);
            }
            0x228 | 0x238 => _ = self.registers.remove(&offset),
            _ => _ = self.registers.insert(offset, value),
        }
    }

    fn answer(&mut self, line: &str) -> String {
        let words: Vec<_> = line.split(' ').collect();
        let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap();
        let offset = number(words[1]) - 0xfed9_0000;
        match words[0] {
            "readl" | "readq" => format!("OK {:#018x}\n", self.get(offset)),
            "writel" | "writeq" => {
                self.write(offset, number(words[2]));
                "OK\n".into()
            }
            _ => "FAIL\n".into(),
        }
    }
}

/// Returns VT-d, connected to a model, and the device behind it.
fn setup() -> (Arc<Vtd>, Part, Arc<Mutex<Model>>, Arc<Bus>) {
    let model = Arc::new(Mutex::new(Model::new()));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let served = model.clone();
    thread::spawn(move || {
        let mut out = theirs.try_clone().unwrap();
        for line in BufReader::new(theirs).lines() {
            let answer = lock(&served).answer(&line.unwrap());
            out.write_all(answer.as_bytes()).unwrap();
        }
    });
    let (vtd, mut parts) = Vtd::new(&[BDF]).unwrap();
    let registers = Registers::new(Client::new(ours).unwrap()).unwrap();
    *lock(&vtd.link) = Link::Up(registers);
    let part = parts.remove(0);
    let space = crate::iova::IovaSpace::new(
        crate::addr::Iova(0x8001_0000_0000),
        1 << 30,
        crate::iova::Placement::Low,
    );
    let dart = Dart::new(Mode::Dext, Limits::default(), space.unwrap());
    let bus = Arc::new(Bus::new("d", part.ram.clone(), Arc::new(dart.into()), 0));
    part.domain.count_on(bus.clone());
    (vtd, part, model, bus)
}

fn announce(part: &Part) {
    let size = (tables::BASE + tables::SIZE) as usize;
    part.ram.add_anonymous(Gpa(0), size).unwrap();
}

#[test]
fn translation_begins_with_a_batch_or_on_demand() {
    let (vtd, part, model, _) = setup();
    announce(&part);
    vtd.look().unwrap();
    assert!(!vtd.is_on() && lock(&model).writes.is_empty());
    vtd.translate().unwrap();
    assert!(vtd.is_on());
    let offsets: Vec<_> = lock(&model).writes.iter().map(|(at, _)| *at).collect();
    assert_eq!(offsets, [0x20, 0x18, 0x28, 0xf8, 0x18]);
    assert_eq!(lock(&model).get(0x1c), 3 << 30);
    assert_eq!(lock(&model).get(0x20), vtd.root.root.0);

    // A kernel that wants no translation turns it off.
    lock(&model).registers.insert(0x1c, 0);
    vtd.look().unwrap();
    assert!(!vtd.is_on());
    part.domain.begin().unwrap();
    assert_eq!(lock(&model).get(0x1c), 3 << 30);
}

#[test]
fn what_is_unmapped_is_invalidated() {
    let (_, part, model, _) = setup();
    announce(&part);
    part.domain.begin().unwrap();
    lock(&model).writes.clear();
    part.domain.unmapped().unwrap();
    let value = (1 << 63) | (2 << 60) | (2 << 32);
    assert_eq!(lock(&model).writes, [(0xf8, value)]);
}

#[test]
fn the_first_batch_after_a_reset_looks_for_the_bus() {
    let (_, part, model, _) = setup();
    announce(&part);
    let contexts = || {
        part.domain.begin().unwrap();
        let mut model = lock(&model);
        let count = model.writes.iter().filter(|(at, _)| *at == 0x28).count();
        model.writes.clear();
        count
    };
    assert_eq!(contexts(), 2);
    assert_eq!(contexts(), 0);
    part.domain.reset();
    assert_eq!(contexts(), 1);
}

#[test]
fn faults_are_counted_once() {
    let (vtd, part, model, bus) = setup();
    announce(&part);
    vtd.translate().unwrap();
    assert_eq!(bus.counters.snapshot().faults, 0);
    {
        let mut model = lock(&model);
        model.registers.insert(0x34, 3);
        model.registers.insert(0x230, 0x8001_0000_4000);
        model
            .registers
            .insert(0x238, (1 << 63) | (6 << 32) | u64::from(BDF));
    }
    vtd.look().unwrap();
    vtd.look().unwrap();
    let stats = bus.counters.snapshot();
    assert_eq!(stats.faults, 1);
    assert_eq!(stats.fault_list[0].iova.0, 0x8001_0000_4000);
    assert_eq!(lock(&model).get(0x34), 2);
}

#[test]
fn the_end_of_qemu_is_an_error() {
    let (vtd, part, _, _) = setup();
    *lock(&vtd.link) = Link::Down;
    assert!(vtd.look().is_err() && vtd.translate().is_err());
    assert!(part.domain.begin().is_err());
}

#[test]
fn apertures() {
    assert!(check_aperture(0x8001_0000_0000, 16 << 30).is_ok());
    assert!(check_aperture(0x801c_0000, 0x6000_0000).is_ok());
    assert!(check_aperture(0x801c_0000, 0x8000_0000).is_err());
    assert!(check_aperture(0xfeef_c000, 0x8000).is_err());
    assert!(check_aperture(0xffff_0000_0000, 4 << 30).is_ok());
    assert!(check_aperture(0xffff_0000_0000, 8 << 30).is_err());
}
