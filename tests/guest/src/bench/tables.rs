// SPDX-License-Identifier: GPL-2.0

//! The figures for people: tables in Markdown, as in docs/performance.md.

use super::figures::{
    ratio,
    Figure,
    Figures, //
};
use super::targets::{
    self,
    Bound, //
};

/// Numbers of live mappings beside the timed ones.
pub const LIVE: [&str; 4] = ["10", "1000", "10000", "50000"];

/// Rows of calls that map the same memory again and again, with the cases' names.
const AGAIN: [(&str, &str); 7] = [
    ("one page, 10 live", "page-10"),
    ("one page, 1,000 live", "page-1000"),
    ("one page, 10,000 live", "page-10000"),
    ("one page, 50,000 live", "page-50000"),
    ("1 MiB", "1m"),
    ("scatterlist of 16 pages", "sg-16"),
    ("scatterlist of 256 pages", "sg-256"),
];

/// The same for memory that was not mapped.
const FRESH: [(&str, &str); 5] = [
    ("one page", "page-10"),
    ("one page, the limit reached", "page-reclaim"),
    ("1 MiB", "1m"),
    ("scatterlist of 16 pages", "sg-16"),
    ("scatterlist of 256 pages", "sg-256"),
];

/// Rows of the disk's work.
const IO: [(&str, &str); 4] = [
    ("random reads, 4 KiB", "randread-4k"),
    ("random writes, 4 KiB", "randwrite-4k"),
    ("sequential reads, 128 KiB", "read-128k"),
    ("sequential writes, 128 KiB", "write-128k"),
];

/// Rows of work that is larger than what can be mapped.
const STREAM: [(&str, &str); 6] = [
    ("a file is written", "write"),
    ("read", "read"),
    ("read at random, 4 KiB", "randread"),
    ("read into a buffer that fits, 128 KiB", "hot"),
    ("TCP is sent", "send"),
    ("received", "receive"),
];

/// Modes of that work, with headings.
const STREAM_MODES: [(&str, &str); 4] = [
    ("never", "windows only"),
    ("copied", "windows and copies"),
    ("strict", "strict"),
    ("bounced", "bounced by the kernel"),
];

/// Modes of the module for a disk, with headings.
const IO_MODES: [(&str, &str); 5] = [
    ("whole", "whole RAM"),
    ("hit", "windows only"),
    ("copied", "windows and copies"),
    ("strict", "strict, windows only"),
    ("strict-copied", "strict"),
];

/// Modes of the module for two processors, with headings.
const CPU_MODES: [(&str, &str); 2] = [("whole", "whole RAM"), ("hit", "windows")];

/// Rows of mappings that can be live at once.
const CAPACITY: [(&str, &str); 10] = [
    ("4 KiB pages, 64 KiB apart", "pages-64k"),
    ("4 KiB pages, 16 KiB apart", "pages-16k"),
    ("GPU-like, seed 1", "gpu-1"),
    ("GPU-like, seed 2", "gpu-2"),
    ("GPU-like, seed 3", "gpu-3"),
    ("GPU-like, congruent=2, seed 1", "aligned-1"),
    ("GPU-like, congruent=2, seed 2", "aligned-2"),
    ("GPU-like, congruent=2, seed 3", "aligned-3"),
    ("2 MiB buffers", "buffers-2m"),
    ("2 MiB buffers, congruent=2", "aligned-2m"),
];

/// A table that grows by rows.
struct Table {
    text: String,
    rows: usize,
}

impl Table {
    fn new(heading: &str, columns: &[&str]) -> Self {
        let numbers = vec!["---:"; columns.len().saturating_sub(1)].join(" | ");
        let columns = columns.join(" | ");
        Table {
            text: format!("\n### {heading}\n\n| {columns} |\n| --- | {numbers} |\n"),
            rows: 0,
        }
    }

    /// Adds a row, unless all cells but the name are empty.
    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<_> = cells.into_iter().collect();
        if cells.iter().skip(1).any(|cell| !is_missing(cell)) {
            self.text.push_str(&format!("| {} |\n", cells.join(" | ")));
            self.rows += 1;
        }
    }

    /// Returns the table, or nothing if it has no rows.
    fn finish(self) -> String {
        if self.rows == 0 {
            String::new()
        } else {
            self.text
        }
    }
}

/// Returns all tables.
pub fn all(figures: &Figures) -> String {
    [
        format!("\nGuest: arm64, Linux {}\n", figures.kernel),
        summary(figures),
        again(figures),
        fresh(figures),
        host_time(figures),
        bind(figures),
        capacity(figures),
        memory(figures),
        congruence(figures),
        io(figures),
        cpus(figures),
        stream(figures),
        hot(figures),
    ]
    .concat()
}

/// Returns whether a cell is empty.
fn is_missing(cell: &str) -> bool {
    cell.chars().all(|c| "-+ ".contains(c))
}

/// Formats a number that may be missing.
fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.1} %", value * 100.0))
}

/// Formats the instructions of a map and an unmap.
fn calls(figure: Option<&Figure>) -> String {
    let call = |key| number(figure.and_then(|f| f.call(key)), 0);
    format!("{} + {}", call("map"), call("unmap"))
}

/// Formats the doorbells per pair of calls; none as a plain 0.
fn doorbells(figure: Option<&Figure>) -> String {
    match figure.and_then(|f| f.value("doorbells")) {
        Some(0.0) => "0".to_owned(),
        value => number(value, 3),
    }
}

fn summary(figures: &Figures) -> String {
    let mut table = Table::new("Targets", &["", "target", "measured", "reached"]);
    for target in targets::all(figures) {
        let bound = match target.bound {
            Bound::Ceiling => "at most",
            Bound::Floor => "at least",
        };
        let digits = if target.target >= 10.0 { 0 } else { 3 };
        table.row([
            target.what.to_owned(),
            format!("{bound} {}", target.target),
            number(target.measured, digits),
            match (target.measured, target.reached) {
                (None, _) => "not measured",
                (_, true) => "yes",
                (_, false) => "**no**",
            }
            .to_owned(),
        ]);
    }
    table.finish()
}

fn again(figures: &Figures) -> String {
    let mut table = Table::new(
        "Memory that is mapped again and again: instructions of map + unmap, and doorbells",
        &[
            "",
            "direct",
            "whole RAM",
            "to direct",
            "doorbells",
            "by dma_range_map",
            "to direct",
            "doorbells",
            "direct",
            "windows only",
            "to direct",
            "doorbells",
            "windows and copies",
            "to direct",
            "doorbells",
        ],
    );
    for (name, case) in AGAIN {
        let mut row = vec![name.to_owned()];
        // Each is compared with direct mapping in the same guest.
        for (direct, modes) in [
            ("direct-small", &["whole", "ranges"][..]),
            ("direct", &["hit", "copied"]),
        ] {
            let direct = figures.one("calls", direct, case);
            row.push(calls(direct));
            for mode in modes {
                let figure = figures.one("calls", mode, case);
                let pairs = (figure.and_then(Figure::pair), direct.and_then(Figure::pair));
                row.extend([
                    calls(figure),
                    number(ratio(pairs.0, pairs.1), 2),
                    doorbells(figure),
                ]);
            }
        }
        table.row(row);
    }
    table.finish()
}

fn fresh(figures: &Figures) -> String {
    let mut table = Table::new(
        "Memory that was not mapped before: instructions of map + unmap, and doorbells",
        &[
            "",
            "windows",
            "mean",
            "doorbells",
            "strict",
            "mean",
            "doorbells",
        ],
    );
    for (name, case) in FRESH {
        let mut row = vec![name.to_owned()];
        for mode in ["miss", "strict"] {
            let figure = figures.one("calls", mode, case);
            let mean = figure.and_then(|f| Some(f.call("map_mean")? + f.call("unmap_mean")?));
            row.extend([calls(figure), number(mean, 0), doorbells(figure)]);
        }
        table.row(row);
    }
    table.finish()
}

/// Formats a number of microseconds of a figure.
fn us(figure: Option<&Figure>, key: &str) -> String {
    match figure.and_then(|f| f.value(key)) {
        Some(0.0) => "0".to_owned(),
        value => number(value, 0),
    }
}

fn host_time(figures: &Figures) -> String {
    let mut table = Table::new(
        "The host's time for map + unmap by field costs, and for the longest doorbell: µs",
        &[
            "",
            "again, whole RAM",
            "longest",
            "again, windows",
            "longest",
            "not before, windows",
            "longest",
            "not before, strict",
            "longest",
        ],
    );
    let mut rows = FRESH.to_vec();
    // Cases of both kinds of memory have one row.
    rows.extend(
        AGAIN
            .iter()
            .filter(|row| FRESH.iter().all(|fresh| fresh.1 != row.1)),
    );
    for (name, case) in rows {
        let mut row = vec![name.to_owned()];
        for mode in ["whole", "hit", "miss", "strict"] {
            let figure = figures.one("calls", mode, case);
            row.extend([us(figure, "host_us"), us(figure, "longest_us")]);
        }
        table.row(row);
    }
    table.finish()
}

fn bind(figures: &Figures) -> String {
    let mut table = Table::new(
        "The host's time for binding a guest and for releasing it, by field costs: µs",
        &[
            "",
            "entries",
            "doorbells",
            "bind",
            "longest doorbell",
            "entries",
            "doorbells",
            "release",
            "longest doorbell",
        ],
    );
    for (name, mode) in [
        ("whole RAM, 1 GiB", "whole"),
        ("by dma_range_map, 1 GiB", "ranges"),
        ("windows, 4 GiB", "windows"),
        ("strict, 4 GiB", "strict"),
    ] {
        let mut row = vec![name.to_owned()];
        for case in ["bind", "release"] {
            let figure = figures.one("host", mode, case);
            let keys = ["entries", "doorbells", "host_us", "longest_us"];
            row.extend(keys.map(|key| us(figure, key)));
        }
        table.row(row);
    }
    table.finish()
}

fn capacity(figures: &Figures) -> String {
    let mut table = Table::new(
        "Live at once before the first refusal, with default limits",
        &[
            "",
            "mappings",
            "MiB",
            "of max_bytes",
            "windows",
            "MiB in windows",
            "refused",
        ],
    );
    for (name, case) in CAPACITY {
        let figure = figures.one("capacity", "default", case);
        let value = |key| figure.and_then(|f| f.value(key));
        let mib = |key| number(value(key).map(|bytes| bytes / f64::from(1 << 20)), 0);
        table.row([
            name.to_owned(),
            number(value("mapped"), 0),
            mib("bytes"),
            percent(ratio(value("bytes"), Some(targets::BUDGET))),
            number(value("windows"), 0),
            mib("host_bytes"),
            match value("refused") {
                Some(0.0) => "nothing",
                Some(_) => "the next",
                None => "-",
            }
            .to_owned(),
        ]);
    }
    table.finish()
}

fn memory(figures: &Figures) -> String {
    let figure = figures.one("memory", "default", "window");
    let value = |key| figure.and_then(|f| f.value(key));
    match ratio(value("bytes"), value("windows")) {
        Some(bytes) => format!("\nMemory of the guest per window: {bytes:.0} bytes\n"),
        None => String::new(),
    }
}

fn congruence(figures: &Figures) -> String {
    let mut table = Table::new(
        "Large pages whose DMA addresses are multiples of their size, and doorbells per window",
        &[
            "the host puts mappings",
            "GPU-like",
            "doorbells",
            "64 KiB",
            "doorbells",
            "2 MiB",
            "doorbells",
        ],
    );
    for (name, mode) in [
        ("lowest, congruent=0", "off"),
        ("lowest, congruent=1", "preferred"),
        ("lowest, congruent=2", "low"),
        ("highest, congruent=2", "high"),
        ("anywhere, congruent=2", "random"),
    ] {
        let mut row = vec![name.to_owned()];
        for case in ["gpu", "64k", "2m"] {
            let figure = figures.one("congruence", mode, case);
            let value = |key| figure.and_then(|f| f.value(key));
            row.push(percent(ratio(value("congruent"), value("large"))));
            row.push(number(ratio(value("doorbells"), value("windows")), 2));
        }
        table.row(row);
    }
    table.finish()
}

fn io(figures: &Figures) -> String {
    let mut columns = vec![""];
    for (_, heading) in IO_MODES {
        columns.extend([heading, "doorbells"]);
    }
    let mut table = Table::new(
        "NVMe: throughput to that of direct mapping, and doorbells per I/O",
        &columns,
    );
    for (name, case) in IO {
        let mut row = vec![name.to_owned()];
        for (mode, _) in IO_MODES {
            row.push(number(targets::throughput(figures, mode, case), 2));
            row.push(number(targets::doorbells_per_io(figures, mode, case), 4));
        }
        table.row(row);
    }
    table.finish()
}

fn cpus(figures: &Figures) -> String {
    let mut table = Table::new(
        "Two processors: time of a pair of calls to that of one processor alone",
        &["", "direct", "module", "module to direct, one", "two"],
    );
    for (mode, name) in CPU_MODES {
        // The least value is the one that the rest of the machine disturbed least.
        let least = |key| figures.least("cpus", mode, "pair", key);
        let to = |above, below| number(ratio(least(above), least(below)), 2);
        table.row([
            name.to_owned(),
            to("theirs_2", "theirs_1"),
            to("ours_2", "ours_1"),
            to("ours_1", "theirs_1"),
            to("ours_2", "theirs_2"),
        ]);
    }
    table.finish()
}

fn stream(figures: &Figures) -> String {
    let mut columns = vec![""];
    for (_, heading) in STREAM_MODES {
        columns.extend([heading, "entries"]);
    }
    let mut table = Table::new(
        "Eight times as much as can be mapped, a slow host: speed to that of direct mapping, and \
         entries that the host is sent for 100 MiB",
        &columns,
    );
    for (name, case) in STREAM {
        let mut row = vec![name.to_owned()];
        for (mode, _) in STREAM_MODES {
            row.push(number(targets::speed(figures, mode, case), 2));
            row.push(number(targets::entries_per_100_mib(figures, mode, case), 2));
        }
        table.row(row);
    }
    table.finish()
}

fn hot(figures: &Figures) -> String {
    let mut table = Table::new(
        "A buffer of 128 KiB, again and again: part of the mappings that had a window, and copies",
        &["", "windows", "copies"],
    );
    for (mode, heading) in STREAM_MODES {
        let Some(hot) = figures.one("hot", mode, "read") else {
            continue;
        };
        table.row([
            heading.to_owned(),
            number(targets::hot_hits(figures, mode), 4),
            number(hot.value("copies"), 0),
        ]);
    }
    table.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_show_what_is_there_and_what_is_not() {
        let figures = Figures {
            kernel: "7.2".into(),
            figures: [
                "calls direct page-10 map=188 unmap=145 nothing=72",
                "calls hit page-10 map=321 unmap=266 nothing=72 doorbells=0.0000 host_us=0.0000 \
                 longest_us=0.0000",
                "calls miss 1m map=1 unmap=1 nothing=0 host_us=4500.2 longest_us=2000.0000",
                "host whole bind entries=3 doorbells=3 host_us=7000.0 longest_us=2000.0",
            ]
            .map(|text| text.parse().unwrap())
            .into(),
        };
        let text = all(&figures);
        let none = "- + - | - + - | - | - | - + - | - | -";
        let row = format!("| one page, 10 live | {none} | 116 + 73 | 249 + 194 | 2.34 | 0 |");
        assert!(text.contains(&row), "{text}");
        assert!(
            text.contains("| one page | - | - | 0 | 0 | - | - | - | - |"),
            "{text}"
        );
        assert!(
            text.contains("| 1 MiB | - | - | - | - | 4500 | 2000 | - | - |"),
            "{text}"
        );
        let row = "| whole RAM, 1 GiB | 3 | 3 | 7000 | 2000 | - | - | - | - |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains(
            "| hit path, map and unmap, to direct mapping | at most 2 | 2.344 | **no** |"
        ));
    }
}
