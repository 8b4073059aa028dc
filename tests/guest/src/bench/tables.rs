// SPDX-License-Identifier: GPL-2.0
//! What people read of the figures: tables in Markdown, as docs/performance.md has them.

use super::figures::ratio;
use super::figures::Figure;
use super::figures::Figures;
use super::targets;
use super::targets::Bound;

/// How many mappings were live beside those that were timed.
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

/// Rows of what a disk did.
const IO: [(&str, &str); 4] = [
    ("random reads, 4 KiB", "randread-4k"),
    ("random writes, 4 KiB", "randwrite-4k"),
    ("sequential reads, 128 KiB", "read-128k"),
    ("sequential writes, 128 KiB", "write-128k"),
];

/// Modes of the module, with headings.
const MODES: [(&str, &str); 3] = [
    ("whole", "whole RAM"),
    ("hit", "windows"),
    ("strict", "strict"),
];

/// Rows of what can be live at once.
const CAPACITY: [(&str, &str); 6] = [
    ("4 KiB pages, 64 KiB apart", "pages-64k"),
    ("4 KiB pages, 16 KiB apart", "pages-16k"),
    ("GPU-like, seed 1", "gpu-1"),
    ("GPU-like, seed 2", "gpu-2"),
    ("GPU-like, seed 3", "gpu-3"),
    ("2 MiB buffers", "buffers-2m"),
];

/// A table that grows by rows.
struct Table(String);

impl Table {
    fn new(heading: &str, columns: &[&str]) -> Self {
        let mut table = Table(format!("\n### {heading}\n\n"));
        table.row(columns.iter().map(|column| (*column).to_owned()));
        table.row(
            columns
                .iter()
                .enumerate()
                .map(|(number, _)| (if number == 0 { "---" } else { "---:" }).to_owned()),
        );
        table
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push('|');
        for cell in cells {
            self.0.push_str(&format!(" {cell} |"));
        }
        self.0.push('\n');
    }
}

/// All tables.
pub fn all(figures: &Figures) -> String {
    [
        format!("\nGuest: arm64, Linux {}\n", figures.kernel),
        summary(figures),
        again(figures),
        fresh(figures),
        capacity(figures),
        io(figures),
        cpus(figures),
    ]
    .concat()
}

/// A number that may be missing.
fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.1} %", value * 100.0))
}

/// Instructions of a map and an unmap.
fn calls(figure: Option<&Figure>) -> String {
    let call = |key| number(figure.and_then(|f| f.call(key)), 0);
    format!("{} + {}", call("map"), call("unmap"))
}

/// Doorbells per pair of calls, as far as they are more than none.
fn bells(figure: Option<&Figure>) -> String {
    match figure.and_then(|f| f.value("doorbells")) {
        Some(0.0) => "0".to_owned(),
        value => number(value, 3),
    }
}

fn summary(figures: &Figures) -> String {
    let mut table = Table::new("Targets", &["", "target", "measured", "reached"]);
    for target in targets::all(figures) {
        let bound = match target.bound {
            Bound::AtMost => "at most",
            Bound::AtLeast => "at least",
        };
        let digits = if target.target >= 10.0 { 0 } else { 3 };
        table.row([
            target.what.to_owned(),
            format!("{bound} {}", target.target),
            number(target.measured, digits),
            (if target.reached { "yes" } else { "**no**" }).to_owned(),
        ]);
    }
    table.0
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
            "windows",
            "to direct",
            "doorbells",
        ],
    );
    for (name, case) in AGAIN {
        let of = |mode| figures.one("calls", mode, case);
        let direct = of("direct");
        let mut row = vec![name.to_owned(), calls(direct)];
        for mode in ["whole", "hit"] {
            let figure = of(mode);
            let to_direct = ratio(figure.and_then(Figure::pair), direct.and_then(Figure::pair));
            row.extend([calls(figure), number(to_direct, 2), bells(figure)]);
        }
        table.row(row);
    }
    table.0
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
            row.extend([calls(figure), number(mean, 0), bells(figure)]);
        }
        table.row(row);
    }
    table.0
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
            "guest bytes per window",
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
            number(ratio(value("memory"), value("idle_windows")), 0),
        ]);
    }
    table.0
}

fn io(figures: &Figures) -> String {
    let mut table = Table::new(
        "NVMe: throughput to that of direct mapping, and doorbells per I/O",
        &[
            "",
            "whole RAM",
            "doorbells",
            "windows",
            "doorbells",
            "strict",
            "doorbells",
        ],
    );
    for (name, case) in IO {
        let mut row = vec![name.to_owned()];
        for (mode, _) in MODES {
            let median = |of: fn(&Figure) -> Option<f64>| figures.median("io", mode, case, of);
            row.push(number(
                median(|f| ratio(f.value("ours"), f.value("theirs"))),
                2,
            ));
            row.push(number(median(|f| f.value("doorbells")), 4));
        }
        table.row(row);
    }
    table.0
}

fn cpus(figures: &Figures) -> String {
    let mut table = Table::new(
        "Two processors: time of a pair of calls to that of one processor alone",
        &["", "direct", "module", "module to direct, one", "two"],
    );
    for (mode, name) in MODES {
        let median = |of: fn(&Figure) -> Option<f64>| figures.median("cpus", mode, "pair", of);
        if median(|f| f.value("ours_1")).is_none() {
            continue;
        }
        table.row([
            name.to_owned(),
            number(median(|f| part(f, "theirs_2", "theirs_1")), 2),
            number(median(|f| part(f, "ours_2", "ours_1")), 2),
            number(median(|f| part(f, "ours_1", "theirs_1")), 2),
            number(median(|f| part(f, "ours_2", "theirs_2")), 2),
        ]);
    }
    table.0
}

/// One number of a figure to another.
fn part(figure: &Figure, above: &str, below: &str) -> Option<f64> {
    ratio(figure.value(above), figure.value(below))
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
                "calls hit page-10 map=321 unmap=266 nothing=72 doorbells=0.0000",
            ]
            .map(|text| text.parse().unwrap())
            .into(),
        };
        let text = all(&figures);
        let row = "| one page, 10 live | 116 + 73 | - + - | - | - | 249 + 194 | 2.34 | 0 |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains(
            "| hit path, map and unmap, to direct mapping | at most 2 | 2.344 | **no** |"
        ));
    }
}
