// SPDX-License-Identifier: GPL-2.0

//! Admission: traces of requests that may be copied, on hosts of all speeds, against what becomes
//! of them if all are copied, if none is, and at best.
//!
//! Reuse is what tells the traces apart: memory that streams is to be copied without a request to
//! the host, memory that is hot is to get windows and not to be copied any more.

use super::rig::{
    KIB,
    MIB, //
};
use super::trace::{
    real,
    scaled,
    Device,
    Outcome,
    Random,
    Way,
    World, //
};

/// The limit of bytes.
const MAX: u64 = 64 * MIB;

/// The RAM.
const RAM: u64 = 8 * MAX;

const PAGE: u64 = 4 * KIB;
const TILE: u64 = 256 * KIB;
const LARGE: u64 = 4 * MIB;

/// A fast host, a real one, and one on a machine that is thirty times as slow.
const WORLDS: [World; 3] = [real(30_000), real(2_000_000), scaled(60_000_000)];

/// Returns the offsets of all buffers of `len` bytes in `bytes`, in random order.
fn shuffled(bytes: u64, len: u64, seed: u64) -> Vec<u64> {
    let mut list: Vec<_> = (0..bytes / len).map(|n| n * len).collect();
    Random::new(seed).shuffle(&mut list);
    list
}

/// Prints and returns what became of a part of a trace.
fn report(name: &str, device: &mut Device) -> Outcome {
    let outcome = device.take();
    println!(
        "{name:40} {} {:6.2} % hits {:9.2} entries/100 MiB, time {:6.3} of the device's",
        device.name(),
        outcome.hit_rate() * 100.0,
        outcome.entries_per_100_mib(),
        1.0 / outcome.ratio(),
    );
    outcome
}

/// Returns the nanoseconds that each byte costs if all are handled this way, by one of `passes` of
/// which the first ones are left out.
fn cost(world: World, way: Way, passes: u64, pass: impl Fn(&mut Device, u64)) -> f64 {
    let mut device = Device::new(world, way, RAM, MAX);
    for n in 0..passes {
        pass(&mut device, n);
    }
    device.take();
    pass(&mut device, passes);
    let outcome = report("in comparison", &mut device);
    outcome.cost as f64 / outcome.bytes as f64
}

/// Runs `pass`, which streams through all of RAM, until windows are full, and then checks that it
/// needs no host.
fn check_stream(name: &str, pass: impl Fn(&mut Device, u64)) {
    for world in WORLDS {
        let mut device = Device::new(world, Way::Auto, RAM, MAX);
        for n in 0..6 {
            pass(&mut device, n);
        }
        let warm_up = report(name, &mut device);
        // Every window stays that was bought while there was room.
        assert!(warm_up.entries <= MAX / TILE, "{warm_up:?}");
        for n in 6..9 {
            pass(&mut device, n);
        }
        let stream = report(name, &mut device);
        assert!(stream.entries_per_100_mib() <= 1.0, "{stream:?}");
        // What fills the windows is hit.
        assert!(stream.hit_rate() >= 0.1, "{stream:?}");
        let copied = cost(world, Way::Copy, 0, &pass);
        let mapped = cost(world, Way::Map, 1, &pass);
        let each = stream.cost as f64 / stream.bytes as f64;
        // The host is dearer than copying by far.
        assert!(copied < mapped, "{copied}, {mapped}");
        assert!(each < copied, "{each}, {copied}");
    }
}

#[test]
fn a_sequential_stream_is_copied() {
    for len in [PAGE, 128 * KIB] {
        check_stream(&format!("sequential, {} KiB", len / KIB), |device, _| {
            for at in 0..RAM / len {
                device.request(at * len, len);
            }
        });
    }
}

#[test]
fn a_stream_through_recycled_pages_is_copied() {
    for len in [PAGE, 128 * KIB] {
        check_stream(&format!("scattered, {} KiB", len / KIB), |device, pass| {
            for at in shuffled(RAM, len, pass + 1) {
                device.request(at, len);
            }
        });
    }
}

#[test]
fn random_pages_are_copied() {
    check_stream("random, 4 KiB", |device, pass| {
        let mut random = Random::new(pass + 1);
        for _ in 0..RAM / PAGE {
            device.request(random.below(RAM / PAGE) * PAGE, PAGE);
        }
    });
}

/// Makes random requests for pages of `bytes` bytes of tiles, `step` tiles apart.
fn hot(device: &mut Device, random: &mut Random, bytes: u64, step: u64, requests: u64) {
    let pages = TILE / PAGE;
    for _ in 0..requests {
        let page = random.below(bytes / PAGE);
        let tile = page / pages * step % (RAM / TILE);
        device.request(tile * TILE + page % pages * PAGE, PAGE);
    }
}

#[test]
fn a_hot_set_that_fits_is_not_copied() {
    for world in WORLDS {
        for (part, step) in [(50, 1), (50, 5), (90, 1), (90, 5)] {
            let name = format!("{part} % of the limit, every {step}. tile");
            let bytes = MAX / 100 * part / TILE * TILE;
            let mut random = Random::new(part);
            let mut device = Device::new(world, Way::Auto, RAM, MAX);
            let mut passes = 0;
            let warm_up = loop {
                hot(&mut device, &mut random, bytes, step, bytes / PAGE);
                passes += 1;
                let pass = device.take();
                if pass.copies == 0 {
                    break passes;
                }
                // As often as pays where every window is a tile of its own.
                assert!(passes < 400, "{name}: {pass:?}");
            };
            println!("{name} {}: warm after {warm_up} passes", device.name());
            for _ in 0..20 {
                hot(&mut device, &mut random, bytes, step, bytes / PAGE);
                device.tick();
            }
            let steady = report(&name, &mut device);
            assert_eq!((steady.copies, steady.entries), (0, 0), "{steady:?}");
        }
    }
}

#[test]
fn a_hot_set_costs_little_more_than_its_windows() {
    for world in WORLDS {
        let bytes = MAX / 2;
        let mut random = Random::new(1);
        let mut device = Device::new(world, Way::Auto, RAM, MAX);
        hot(&mut device, &mut random, bytes, 1, 400 * bytes / PAGE);
        let outcome = report("from cold to hot", &mut device);
        // At best each is bought at once, in the size that is best for this host.
        let best = [TILE, LARGE].map(|size| bytes / size * world.entry_ns);
        let best = best[usize::from(world.entry_ns > 100_000)];
        assert!(outcome.cost <= 4 * best, "{outcome:?}, {best} at best");
    }
}

#[test]
fn a_hot_set_stays_beside_a_stream() {
    for world in WORLDS {
        let mut random = Random::new(1);
        let mut device = Device::new(world, Way::Auto, RAM, MAX);
        let mut at = 0;
        for round in 0..24 {
            let (mut hits, mut all) = (0, 0);
            let before = device.entries();
            for _ in 0..4 * MAX / PAGE {
                hits += u64::from(device.request(random.below(MAX / 2 / PAGE) * PAGE, PAGE));
                all += 1;
                device.request(MAX + at % (RAM - MAX), PAGE);
                at += PAGE;
            }
            if round % 4 == 3 {
                device.tick();
            }
            if round >= 4 {
                assert_eq!(hits, all, "round {round}");
                assert_eq!(device.entries(), before, "round {round}");
            }
        }
        report("a hot set and a stream", &mut device);
    }
}

#[test]
fn a_hot_set_that_moves_is_followed() {
    for world in WORLDS {
        let mut device = Device::new(world, Way::Auto, RAM, MAX);
        let mut random = Random::new(1);
        let bytes = MAX / 10 * 8;
        for place in 0..4 {
            let base = place * 2 * MAX;
            let mut passes = 0;
            loop {
                for _ in 0..bytes / PAGE {
                    device.request(base + random.below(bytes / PAGE) * PAGE, PAGE);
                }
                passes += 1;
                if passes % 16 == 0 {
                    device.tick();
                }
                let pass = device.take();
                if pass.hit_rate() >= 0.99 {
                    break;
                }
                assert!(passes < 120, "place {place}: {pass:?}");
            }
            println!(
                "{} place {place}: followed after {passes} passes",
                device.name()
            );
        }
    }
}

#[test]
fn a_ring_of_recycled_buffers_gets_windows() {
    for world in WORLDS {
        // The buffers are neighbours, or each is alone in its tile.
        for (step, count, most) in [(PAGE, 1024, 2), (TILE + PAGE, 32, 4)] {
            let order = shuffled(count * PAGE, PAGE, 5);
            let mut device = Device::new(world, Way::Auto, RAM, MAX);
            let pass = |device: &mut Device| {
                for at in &order {
                    device.request(at / PAGE * step, 1536);
                }
            };
            let mut passes = 0;
            loop {
                pass(&mut device);
                passes += 1;
                if device.take().copies == 0 {
                    break;
                }
                // A window of one buffer pays after 10,000 packets on the slow hosts.
                assert!(passes < 40_000, "{:?}", device.take());
            }
            println!("ring {step} {}: warm after {passes} passes", device.name());
            for _ in 0..20 {
                pass(&mut device);
            }
            let steady = report("ring", &mut device);
            assert_eq!((steady.copies, steady.entries), (0, 0), "{steady:?}");
            assert!(
                device.mapped() <= most * count * 16 * KIB,
                "{}",
                device.mapped()
            );
        }
    }
}

#[test]
fn windows_take_a_share_of_the_time_only() {
    for world in WORLDS {
        let mut device = Device::new(world, Way::Auto, RAM, MAX);
        let mut random = Random::new(1);
        let (mut time, mut entries) = (0, 0);
        for _ in 0..200 {
            hot(&mut device, &mut random, MAX / 100 * 90, 5, MAX / PAGE / 8);
            let outcome = device.take();
            time += outcome.device + outcome.cost;
            entries += outcome.entries;
            // An eighth, and what was saved: an eighth of a second, and one more window.
            let most = time / 8 + 125_000_000 + 2 * world.entry_ns;
            assert!(entries * world.entry_ns <= most, "{entries} in {time} ns");
        }
    }
}

#[test]
fn a_strict_engine_copies_what_is_cheaper_to_copy() {
    for world in WORLDS {
        let mut device = Device::strict(world, Way::Auto, RAM, MAX);
        for at in 0..RAM / (128 * KIB) {
            device.request(at * 128 * KIB, 128 * KIB);
        }
        let outcome = report("strict, 128 KiB", &mut device);
        assert_eq!(outcome.entries, 0, "{outcome:?}");
    }
}
