// SPDX-License-Identifier: GPL-2.0

//! Admission: traces of requests that may be copied, on hosts of all speeds.

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

const WORLDS: [(&str, World); 3] = [
    ("30 us", real(30_000)),
    ("2 ms", real(2_000_000)),
    ("60 ms, scaled", scaled(60_000_000)),
];

/// Pages in random order.
fn pages(bytes: u64, len: u64, seed: u64) -> Vec<u64> {
    let mut list: Vec<_> = (0..bytes / len).map(|n| n * len).collect();
    Random::new(seed).shuffle(&mut list);
    list
}

fn explore(name: &str, run: impl Fn(&mut Device) -> Vec<(String, Outcome)>) {
    for (world_name, world) in WORLDS {
        let mut device = Device::new(world, Way::Auto, 8 * MAX, MAX);
        print!("{name:32} {world_name:13}");
        for (_, o) in run(&mut device) {
            print!(" {:.1}%/{}/{:.2}", o.hit_rate() * 100.0, o.entries, o.ratio());
        }
        println!(" mapped {}", device.mapped() >> 20);
    }
}

#[test]
fn exploration() {
    for len in [4 * KIB, 128 * KIB] {
        explore(&format!("sequential {}K", len / KIB), |device| {
            let mut all = Vec::new();
            for pass in 0..6 {
                for at in 0..8 * MAX / len {
                    device.request(at * len, len);
                }
                all.push((format!("{pass}"), device.take()));
            }
            all
        });
        explore(&format!("scattered {}K", len / KIB), |device| {
            let mut all = Vec::new();
            for pass in 0..6 {
                for at in pages(8 * MAX, len, pass + 7) {
                    device.request(at, len);
                }
                all.push((format!("{pass}"), device.take()));
            }
            all
        });
    }
    explore("random 4K", |device| {
        let mut random = Random::new(3);
        (0..4)
            .map(|pass| {
                for _ in 0..8 * MAX / (4 * KIB) {
                    device.request(random.below(8 * MAX / (4 * KIB)) * 4 * KIB, 4 * KIB);
                }
                (format!("{pass}"), device.take())
            })
            .collect()
    });
    for part in [50, 90] {
        explore(&format!("hot {part} %, 4K"), |device| {
            let mut random = Random::new(3);
            let hot = MAX / 100 * part / (256 * KIB);
            let mut all = Vec::new();
            for pass in 0..40 {
                for _ in 0..4 * MAX / (4 * KIB) {
                    let page = random.below(hot * 64);
                    device.request((page / 64) * 5 % (8 * MAX / (256 * KIB)) * (256 * KIB) + page % 64 * 4 * KIB, 4 * KIB);
                }
                if pass % 8 == 7 {
                    device.tick();
                    all.push((format!("{pass}"), device.take()));
                }
            }
            all
        });
    }
    explore("hot 50 % and a stream, 128K/4K", |device| {
        let mut random = Random::new(3);
        let mut at = 0;
        (0..20)
            .filter_map(|pass| {
                for _ in 0..4 * MAX / (4 * KIB) {
                    device.request(random.below(MAX / 2 / (4 * KIB)) * 4 * KIB, 4 * KIB);
                    device.request(MAX + at % (7 * MAX), 4 * KIB);
                    at += 4 * KIB;
                }
                if pass % 4 == 3 {device.tick();}
                (pass % 4 == 3).then(|| (format!("{pass}"), device.take()))
            })
            .collect()
    });
    explore("hot 80 %, moves at 20", |device| {
        let mut random = Random::new(3);
        (0..60)
            .filter_map(|pass| {
                let base = if pass < 20 { 0 } else { 4 * MAX };
                for _ in 0..4 * MAX / (4 * KIB) {
                    device.request(base + random.below(MAX / 10 * 8 / (4 * KIB)) * 4 * KIB, 4 * KIB);
                }
                if pass % 4 == 3 {device.tick();}
                (pass % 4 == 3).then(|| (format!("{pass}"), device.take()))
            })
            .collect()
    });
    for (name, step, count) in [("dense", 4 * KIB, 1024), ("sparse", 68 * KIB, 512), ("sparser", 260 * KIB, 200)] {
        explore(&format!("ring, {name}"), |device| {
            let order = pages(count * 4 * KIB, 4 * KIB, 5);
            (0..8)
                .map(|pass| {
                    for _ in 0..500 {
                        for at in &order {
                            device.request(at / (4 * KIB) * step % (8 * MAX), 1536);
                        }
                        if pass % 4 == 3 {
                            device.tick();
                        }
                    }
                    (format!("{pass}"), device.take())
                })
                .collect()
        });
    }
}
