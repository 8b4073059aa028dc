// SPDX-License-Identifier: GPL-2.0

//! The module's files in debugfs, described in docs/ABI/testing/debugfs-driver-apple-dma-pci: lines
//! of names and values, and windows. This file parses text and reads no files.

use anyhow::{
    bail,
    Context,
    Result, //
};
use serde::{
    Deserialize,
    Serialize, //
};
use std::collections::BTreeMap;

/// Values by their names.
pub type Words = BTreeMap<String, String>;

/// Numbers by their names.
pub type Numbers = BTreeMap<String, u64>;

/// Parses the lines of a file: a name, a space, and a value to the end of the line.
pub fn words(text: &str) -> Result<Words> {
    let mut words = Words::new();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(' ') else {
            bail!("'{line}' is not a name and a value");
        };
        words.insert(name.to_owned(), value.to_owned());
    }
    Ok(words)
}

/// Parses a file whose values all are numbers.
pub fn numbers(text: &str) -> Result<Numbers> {
    let number = |(name, value): (String, String)| {
        let number = value.parse();
        let number = number.with_context(|| format!("'{name} {value}' has no number"))?;
        Ok((name, number))
    };
    words(text)?.into_iter().map(number).collect()
}

/// The form of [`Words`] in JSON: values that are numbers are numbers. Text is read as well, which
/// they were in the first recordings.
pub mod json_words {
    use super::Words;
    use serde::{
        Deserialize,
        Deserializer,
        Serialize,
        Serializer, //
    };
    use std::collections::BTreeMap;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Word {
        Number(u64),
        Text(String),
    }

    pub fn serialize<S: Serializer>(words: &Words, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(words.iter().map(|(name, text)| {
            let number = text.parse::<u64>().ok();
            let word = match number.filter(|number| number.to_string() == *text) {
                Some(number) => Word::Number(number),
                None => Word::Text(text.clone()),
            };
            (name, word)
        }))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Words, D::Error> {
        let words = BTreeMap::<String, Word>::deserialize(deserializer)?;
        let text = |word| match word {
            Word::Number(number) => number.to_string(),
            Word::Text(text) => text,
        };
        Ok(words
            .into_iter()
            .map(|(name, word)| (name, text(word)))
            .collect())
    }
}

/// Returns a number, 0 if there is none of that name.
pub fn number(numbers: &Numbers, name: &str) -> u64 {
    numbers.get(name).copied().unwrap_or(0)
}

/// Returns the numbers whose names have the prefix `prefix` and more, by the rest of their names.
pub fn below<'a>(numbers: &'a Numbers, prefix: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
    let rest = move |(name, number): (&'a String, &'a u64)| {
        let rest = name.strip_prefix(prefix)?.strip_prefix('_')?;
        Some((rest, *number))
    };
    numbers.iter().filter_map(rest)
}

/// Status of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowStatus {
    /// In use.
    Live,
    /// Not in use, and to be used again or unmapped.
    Idle,
    /// A region of RAM, mapped permanently.
    Fixed,
    /// Not unmapped by the host.
    Lost,
    /// About to be unmapped.
    Returning,
}

/// A line of the file `windows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Guest-physical address of the first byte.
    pub gpa: u64,
    /// DMA address of that byte; 0 if it is not known.
    pub dma: u64,
    /// Bytes.
    pub bytes: u64,
    /// Mappings of drivers that use it now.
    pub users: u32,
    /// Mappings of drivers that used it so far, modulo 2^32.
    pub uses: u32,
    /// Status.
    pub state: WindowStatus,
}

/// Parses a number in C's form: hexadecimal with 0x, else decimal.
pub fn c_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Parses all lines of the file `windows`.
pub fn windows(text: &str) -> Result<Vec<Window>> {
    let window = |line: &str| {
        let columns: Vec<_> = line.split(' ').collect();
        let [gpa, dma, bytes, users, uses, state] = columns[..] else {
            return None;
        };
        Some(Window {
            gpa: c_number(gpa)?,
            dma: c_number(dma)?,
            bytes: c_number(bytes)?,
            users: users.parse().ok()?,
            uses: uses.parse().ok()?,
            state: match state {
                "live" => WindowStatus::Live,
                "idle" => WindowStatus::Idle,
                "fixed" => WindowStatus::Fixed,
                "lost" => WindowStatus::Lost,
                "returning" => WindowStatus::Returning,
                _ => return None,
            },
        })
    };
    let lines = text.lines();
    lines
        .map(|line| window(line).with_context(|| format!("'{line}' is no window")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write;

    /// Returns the histogram `name`: counts by powers of two, in their order.
    fn histogram(numbers: &Numbers, name: &str) -> Vec<(u64, u64)> {
        let places = below(numbers, name);
        let mut places: Vec<_> = places
            .filter_map(|(place, count)| Some((place.parse().ok()?, count)))
            .collect();
        places.sort_unstable();
        places
    }

    #[test]
    fn pages_of_a_guest() {
        let status = words(include_str!("fixtures/status")).unwrap();
        assert_eq!(status["managed"], "0000:00:06.0");
        assert_eq!(status["mode"], "lazy");
        let counters = numbers(include_str!("fixtures/counters")).unwrap();
        assert_eq!(
            number(&counters, "hits") + number(&counters, "misses"),
            number(&counters, "maps")
        );
        let refusals: u64 = below(&counters, "refusals").map(|(_, count)| count).sum();
        assert_eq!(refusals, number(&counters, "refusals"));
        let bells = numbers(include_str!("fixtures/doorbells")).unwrap();
        for name in ["map_ns", "map_entries", "unmap_ns"] {
            let command = name.split('_').next().unwrap();
            let sum: u64 = histogram(&bells, name).iter().map(|(_, count)| count).sum();
            assert_eq!(sum, number(&bells, &format!("{command}_count")), "{name}");
        }
        let windows = windows(include_str!("fixtures/windows")).unwrap();
        assert_eq!(windows.len().to_string(), status["entries"]);
    }

    #[test]
    fn what_is_no_page_is_said() {
        assert!(words("managed\n")
            .unwrap_err()
            .to_string()
            .contains("'managed'"));
        assert!(numbers("maps many\n")
            .unwrap_err()
            .to_string()
            .contains("maps many"));
        for line in [
            "",
            "0x0 0x0 1 1 1",
            "0x0 0x0 1 1 1 busy",
            "0x0 0x0 1 1 1 live ",
            "x 0 1 1 1 live",
        ] {
            assert!(windows(&format!("{line}\n")).is_err(), "{line}");
        }
    }

    #[test]
    fn numbers_are_numbers_in_json() {
        #[derive(Serialize, Deserialize)]
        struct Status(#[serde(with = "json_words")] Words);
        let text = "managed 0000:00:06.0\nbytes 16\nodd 007\nlarge 18446744073709551616\n";
        let status = Status(words(text).unwrap());
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["managed"], "0000:00:06.0");
        assert_eq!(json["bytes"], 16);
        assert_eq!(json["odd"], "007");
        assert_eq!(json["large"], "18446744073709551616");
        let read: Status = serde_json::from_value(json).unwrap();
        assert_eq!(read.0, status.0);
        // As in a recording of format 1.
        let read: Status = serde_json::from_str(r#"{"bytes":"16"}"#).unwrap();
        assert_eq!(read.0["bytes"], "16");
    }

    proptest! {
        #[test]
        fn windows_are_read_as_written(
            list in prop::collection::vec(
                (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u32>(), 0..5usize),
                0..20,
            )
        ) {
            let names = ["live", "idle", "fixed", "lost", "returning"];
            use WindowStatus::*;
            let states = [Live, Idle, Fixed, Lost, Returning];
            let mut text = String::new();
            for (gpa, dma, bytes, users, uses, state) in &list {
                let state = names[*state];
                writeln!(text, "{gpa:#x} {dma:#x} {bytes} {users} {uses} {state}").unwrap();
            }
            let expected: Vec<_> = list.iter().map(|&(gpa, dma, bytes, users, uses, state)| {
                Window { gpa, dma, bytes, users, uses, state: states[state] }
            }).collect();
            prop_assert_eq!(windows(&text).unwrap(), expected);
        }

        #[test]
        fn numbers_are_read_as_written(
            page in prop::collection::btree_map("[a-z_0-9]{1,20}", any::<u64>(), 0..20)
        ) {
            let mut text = String::new();
            for (name, value) in &page {
                writeln!(text, "{name} {value}").unwrap();
            }
            prop_assert_eq!(numbers(&text).unwrap(), page);
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = (words(&text), numbers(&text), windows(&text));
        }
    }
}
