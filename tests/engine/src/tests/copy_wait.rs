// SPDX-License-Identifier: GPL-2.0

//! Calls that wait for a slot while the pool is full.

use super::copy::{
    Bench,
    COST,
    FROM, //
};
use super::host::span;
use super::rig::{
    list,
    Setup,
    ALL,
    BASE,
    KIB,
    MIB, //
};
use crate::addr::{
    Iova,
    IovaSpan, //
};
use crate::engine::copy::pool::ROW;
use crate::engine::copy::Preference;
use crate::sys::{
    pass_ms,
    Stopwatch, //
};
use std::sync::Arc;

/// Nanoseconds that the host takes to map a window.
const MAP: u64 = 2_000_000;

/// Microseconds until a slot is returned: much less than a window takes.
const SOON: u32 = 300;

/// Returns an engine with a pool of one row, on a host whose windows take `map_ns`.
fn bench(preference: Preference, map_ns: u64) -> Bench {
    let bench = Bench::new(Setup::default(), ROW, preference);
    {
        let mut state = bench.rig.host.look();
        (state.map_ns, state.unmap_ns) = (map_ns, map_ns);
    }
    // The average takes some windows to follow.
    for n in 0..8 {
        let window = span(BASE + 32 * MIB + n * MIB, ROW);
        let iova = bench.map(window, None).expect("a window");
        assert!(bench.unmap(iova, ROW, true));
    }
    bench
}

/// Fills the pool, and has others return all of it after `microseconds` of waiting, once.
fn fill(bench: &Bench, microseconds: Option<u32>) -> Iova {
    let iova = bench.map(span(BASE, ROW), FROM).expect("a slot");
    assert!(bench.is_copied(iova));
    let pool = Arc::clone(&bench.pool);
    let mut left = microseconds;
    bench.ram.run_beside(move || {
        left = match left {
            Some(0) => {
                let slot = IovaSpan::new(iova, ROW).expect("a span");
                assert_eq!(pool.unmap(&slot, true), Ok(()));
                None
            }
            left => left.map(|left| left - 1),
        }
    });
    iova
}

#[test]
fn a_slot_that_is_returned_soon_is_waited_for() {
    for preference in [
        Preference::Slots,
        Preference::NewSlots,
        Preference::Admitted(COST),
    ] {
        let bench = bench(preference, MAP);
        fill(&bench, Some(SOON));
        let doorbells = bench.rig.host.doorbells();
        let time = Stopwatch::start();
        let iova = bench.map(span(BASE + MIB, 64 * KIB), FROM).expect("a slot");
        assert!(bench.is_copied(iova), "{preference:?}");
        assert!(
            time.elapsed_ns() <= u64::from(SOON + 2) * 1000,
            "{preference:?}: as soon as it is returned"
        );
        assert_eq!(bench.rig.host.doorbells(), doorbells);
        let stats = bench.pool.stats();
        assert_eq!((stats.waited, stats.full), (1, 0), "{preference:?}");
        assert!(bench.unmap(iova, 64 * KIB, true));
    }
}

#[test]
fn a_call_waits_as_long_as_a_window_takes_and_a_tenth_of_a_second_at_most() {
    for (map_ns, most) in [
        (MAP, MAP),
        (60_000_000, 60_000_000),
        (500_000_000, 100_000_000),
    ] {
        let bench = bench(Preference::NewSlots, map_ns);
        let slot = fill(&bench, None);
        // A list waits once for all of its entries.
        let entries = list(&[
            (BASE + MIB, ROW),
            (BASE + 2 * MIB, ROW),
            (BASE + 4 * MIB, 1),
        ]);
        let time = Stopwatch::start();
        let mapped = bench
            .rig
            .engine
            .map_or_copy_all(entries.iter(), &bench.pool, FROM, ALL);
        assert_eq!(mapped, Ok(()));
        let waited = time.elapsed_ns() - 3 * map_ns;
        assert!(
            (most * 7 / 8..=most + 2000).contains(&waited),
            "{waited} ns of {most}"
        );
        let at = |n: usize| entries[n].at().expect("mapped");
        assert!((0..3).all(|n| !bench.is_copied(at(n))));
        let stats = bench.pool.stats();
        assert_eq!((stats.waited, stats.full), (0, 3));
        assert!(bench.unmap(slot, ROW, true));
    }
}

#[test]
fn little_time_is_waited_in_vain() {
    let bench = bench(Preference::NewSlots, MAP);
    let slot = fill(&bench, None);
    // Ten seconds and what passes in calls.
    let clock = Stopwatch::start();
    let mut in_calls = 0;
    for n in 0..1000 {
        let want = span(BASE + MIB + n % 16 * ROW, ROW);
        let time = Stopwatch::start();
        let doorbells = bench.rig.host.doorbells();
        let iova = bench.map(want, FROM).expect("a window");
        let rung = bench.rig.host.doorbells() - doorbells;
        in_calls += time.elapsed_ns() - rung as u64 * MAP;
        assert!(!bench.is_copied(iova));
        assert!(bench.unmap(iova, ROW, true));
        bench.rig.engine.age();
        bench.rig.engine.age();
        pass_ms(10);
    }
    let share = clock.elapsed_ns() / 16;
    assert!(in_calls > share / 2, "{in_calls} ns: it is not given up");
    assert!(in_calls < share + 80_000_000, "{in_calls} ns of {share}");
    assert!(bench.unmap(slot, ROW, true));
}

#[test]
fn nobody_waits_where_nothing_else_runs() {
    let bench = bench(Preference::NewSlots, MAP);
    let slot = bench.map(span(BASE, ROW), FROM).expect("a slot");
    let time = Stopwatch::start();
    let window = bench.map(span(BASE + MIB, ROW), FROM).expect("a window");
    assert!(!bench.is_copied(window));
    assert_eq!(time.elapsed_ns(), MAP);
    // Nor for what cannot be copied, or once the pool is closed.
    bench.ram.run_beside(|| ());
    let time = Stopwatch::start();
    for transfer in [None, FROM] {
        let window = bench.map(span(BASE + 2 * MIB, ROW), transfer);
        assert!(!bench.is_copied(window.expect("a window")));
        bench.pool.close();
    }
    assert_eq!(time.elapsed_ns(), MAP);
    assert!(bench.unmap(slot, ROW, true));
}
