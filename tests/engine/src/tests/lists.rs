// SPDX-License-Identifier: GPL-2.0

//! Lists whose entries are mapped by windows that are open already, several by one.

use super::host::span;
use super::rig::{
    list,
    Rig,
    Setup,
    ALL,
    BASE,
    KIB,
    MIB, //
};
use crate::addr::Address;
use crate::engine::window::{
    NotHeld,
    Put,
    Window, //
};
use crate::engine::{
    MapError,
    Snapshot, //
};

/// Returns the number of mappings so far, and of those that needed no host.
fn counted(rig: &Rig) -> (u64, u64) {
    let mut snapshot = Snapshot::new();
    rig.engine.snapshot(&mut snapshot);
    (snapshot.maps(), snapshot.hits())
}

#[test]
fn each_entry_of_a_run_holds_the_window() {
    let rig = Rig::new(Setup {
        strict: true,
        ..Setup::default()
    });
    // Two windows, with pages of the second one in between, and the first ones again.
    let places = [0, 4, 8, 1024, 1028, 12, 0, 4];
    let places = places.map(|kib| (BASE + kib * KIB, 4096));
    let (first, second) = (list(&places), list(&places));
    rig.map_all(&first, ALL).expect("room");
    assert_eq!(rig.host.doorbells(), 1);
    rig.map_all(&second, ALL).expect("hits");
    assert_eq!(rig.host.doorbells(), 1);
    assert_eq!(counted(&rig), (16, 8));
    rig.unmap_all(&first);
    assert_eq!(rig.host.look().mappings.len(), 2, "the others hold them");
    // The host fails the test if a window goes that is held.
    for (index, entry) in second.iter().enumerate() {
        rig.unmap_all(std::slice::from_ref(entry));
        let left = rig.host.look().mappings.len();
        let wanted = match index {
            0..=3 => 2,
            4..=6 => 1,
            _ => 0,
        };
        assert_eq!(left, wanted, "after entry {index}");
    }
    rig.release();
}

#[test]
fn a_run_ends_where_the_device_does() {
    let rig = Rig::new(Setup::default());
    let iova = rig.map(BASE, 4096).expect("room");
    // All in one window, of which the device reaches half.
    let limit = iova.raw() + 128 * KIB - 1;
    let places = [0, 64, 124, 128, 0].map(|kib| (BASE + kib * KIB, 4096));
    let within = list(&places[..3]);
    rig.map_all(&within, limit).expect("hits");
    rig.unmap_all(&within);
    let beyond = list(&places);
    let result = rig.map_all(&beyond, limit);
    assert!(result.is_err(), "{result:?}");
    rig.unmap(BASE, 4096, iova);
    rig.release();
}

#[test]
fn a_bad_entry_fails_the_list_and_keeps_nothing() {
    let rig = Rig::new(Setup {
        strict: true,
        ..Setup::default()
    });
    let iova = rig.map(BASE, 4096).expect("room");
    let entries = list(&[
        (BASE, 4096),
        (BASE + 4096, 4096),
        (BASE + 8192, 0),
        (BASE, 1),
    ]);
    assert_eq!(rig.map_all(&entries, ALL), Err(MapError::Invalid));
    rig.unmap(BASE, 4096, iova);
    assert!(rig.host.look().mappings.is_empty());
    rig.release();
}

#[test]
fn a_window_has_room_for_so_many() {
    let window = Window::default();
    window.prepare(&span(BASE, MIB), None);
    assert!(!window.take_more(1), "it is closed");
    window.open(false);
    assert!(!window.take_more(1 << 28));
    assert!(!window.take_more(u32::MAX));
    assert_eq!(window.users(), 1, "all or none");
    assert!(window.take_more((1 << 28) - 2));
    assert!(!window.take_more(1), "it is full");
    assert_eq!(window.users(), (1 << 28) - 1);
    assert_eq!(window.uses(), (1 << 28) - 2);
    assert_eq!(window.put_many(1 << 28, true), Err(NotHeld));
    assert_eq!(window.put_many((1 << 28) - 1, true), Ok(Put::Closed));
    assert!(!window.take_more(1), "it is closed again");
}
