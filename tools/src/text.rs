// SPDX-License-Identifier: GPL-2.0

//! Numbers for people.

const KIB: u64 = 1 << 10;

/// Formats bytes, with at least three digits and a unit, if they are many.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < KIB {
        return format!("{bytes} B");
    }
    let mut scaled = bytes as f64 / KIB as f64;
    let mut unit = 0;
    while scaled >= 1023.95 && unit + 1 < UNITS.len() {
        scaled /= KIB as f64;
        unit += 1;
    }
    let decimals = usize::from(scaled.fract() != 0.0 && scaled < 100.0);
    format!("{scaled:.decimals$} {}", UNITS[unit])
}

/// Formats nanoseconds, with a unit.
pub fn ns(ns: u64) -> String {
    let (scale, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (1e3, "µs"),
        1_000_000..1_000_000_000 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    let scaled = ns as f64 / scale;
    let decimals = usize::from(scaled < 100.0);
    format!("{scaled:.decimals$} {unit}")
}

/// Formats a number per second.
pub fn rate(rate: f64) -> String {
    let decimals = usize::from(rate != 0.0 && rate < 10.0);
    format!("{rate:.decimals$}/s")
}

/// Returns the part of `max` that `value` is, from 0 to 1.
pub fn part(value: u64, max: u64) -> f64 {
    if max == 0 {
        return 0.0;
    }
    (value as f64 / max as f64).clamp(0.0, 1.0)
}

/// Returns a bar of `width` characters, of which the part `part` is full.
pub fn bar(part: f64, width: usize) -> String {
    // A part that is not zero shows.
    let least = usize::from(part > 0.0);
    let full = ((part * width as f64).round() as usize).clamp(least, width);
    format!("[{}{}]", "#".repeat(full), ".".repeat(width - full))
}

/// Formats `count` with the name of the thing, in singular or plural.
pub fn count(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Formats lines of cells, in columns that are as wide as necessary; numbers are aligned to the
/// right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<_> = cells
            .map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(&format!("  {}\n", line.join("  ").trim_end()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(16 << 10), "16 KiB");
        assert_eq!(bytes(1280 << 20), "1.2 GiB");
        assert_eq!(bytes((1 << 20) - 1), "1 MiB".replace('1', "1.0"));
        assert_eq!(ns(999), "999 ns");
        assert_eq!(ns(12_345), "12.3 µs");
        assert_eq!(ns(2_000_000_000), "2.0 s");
        assert_eq!(rate(0.0), "0/s");
        assert_eq!(rate(1234.5), "1234/s");
    }

    #[test]
    fn bars() {
        assert_eq!(bar(0.0, 4), "[....]");
        assert_eq!(bar(0.001, 4), "[#...]");
        assert_eq!(bar(1.0, 4), "[####]");
        assert_eq!(part(5, 0), 0.0);
    }

    #[test]
    fn tables() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let text = table(&[row(&["a", "1"]), row(&["bb", "22"])]);
        assert_eq!(text, "  a    1\n  bb  22\n");
    }
}
