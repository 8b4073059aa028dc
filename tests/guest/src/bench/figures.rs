// SPDX-License-Identifier: GPL-2.0

//! Measurements: as guests send them, as JSON, and by name.

use anyhow::{
    Context,
    Error,
    Result, //
};
use serde::{
    Deserialize,
    Serialize, //
};
use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr, //
};

/// Numbers that belong together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The kind of measurement: `calls`, `host`, `capacity`, `io`, `cpus`,
    /// `stream`, `hot`.
    pub group: String,
    /// The module's mode, or `direct`.
    pub mode: String,
    /// The measured operation.
    pub case: String,
    /// Numbers by name.
    pub values: BTreeMap<String, f64>,
}

/// All figures of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The guests' kernel.
    pub kernel: String,
    /// The figures, in the order of measurement.
    pub figures: Vec<Figure>,
}

impl FromStr for Figure {
    type Err = Error;

    /// Parses `GROUP MODE CASE KEY=VALUE...`; skips words of another form.
    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let mut name = || {
            let word = words.next();
            word.map(str::to_owned)
                .with_context(|| format!("'{text}' is no figure"))
        };
        let (group, mode, case) = (name()?, name()?, name()?);
        let values = words
            .filter_map(|word| word.split_once('='))
            .map(|(key, value)| {
                let value = value
                    .parse()
                    .with_context(|| format!("'{text}': {key} is no number"))?;
                Ok((key.to_owned(), value))
            })
            .collect::<Result<_>>()?;
        Ok(Figure {
            group,
            mode,
            case,
            values,
        })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.group, self.mode, self.case)?;
        for (key, value) in &self.values {
            write!(f, " {key}={value}")?;
        }
        Ok(())
    }
}

impl Figure {
    /// Returns the number called `key`.
    pub fn value(&self, key: &str) -> Option<f64> {
        self.values.get(key).copied()
    }

    /// Returns the cost of a timed call less the cost of timing: `map` or `unmap`, their means or
    /// maxima.
    pub fn call(&self, key: &str) -> Option<f64> {
        Some(self.value(key)? - self.value("nothing")?)
    }

    /// Returns the cost of a call and its opposite.
    pub fn pair(&self) -> Option<f64> {
        Some(self.call("map")? + self.call("unmap")?)
    }
}

impl Figures {
    /// Returns the figures of this name, in order; several if the measurement was repeated.
    pub fn find<'a>(
        &'a self,
        group: &'a str,
        mode: &'a str,
        case: &'a str,
    ) -> impl Iterator<Item = &'a Figure> {
        self.figures
            .iter()
            .filter(move |f| f.group == group && f.mode == mode && f.case == case)
    }

    /// Returns the first of [`Figures::find`].
    pub fn one(&self, group: &str, mode: &str, case: &str) -> Option<&Figure> {
        self.figures
            .iter()
            .find(|f| f.group == group && f.mode == mode && f.case == case)
    }

    /// Returns the sum of a number of all figures of this name.
    pub fn sum(&self, group: &str, mode: &str, case: &str, key: &str) -> Option<f64> {
        self.find(group, mode, case)
            .filter_map(|f| f.value(key))
            .reduce(|a, b| a + b)
    }

    /// Returns the least of a number of all figures of this name.
    pub fn least(&self, group: &str, mode: &str, case: &str, key: &str) -> Option<f64> {
        self.find(group, mode, case)
            .filter_map(|f| f.value(key))
            .min_by(f64::total_cmp)
    }
}

/// Returns `above / below`, if both exist and the quotient is a finite number.
pub fn ratio(above: Option<f64>, below: Option<f64>) -> Option<f64> {
    Some(above? / below.filter(|below| *below != 0.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read() {
        let text = "calls hit page-10 samples=5 map=321 unmap=266 nothing=72 ns doorbells=0.5000";
        let figure: Figure = text.parse().unwrap();
        assert_eq!(
            (figure.mode.as_str(), figure.case.as_str()),
            ("hit", "page-10")
        );
        assert_eq!(figure.value("doorbells"), Some(0.5));
        assert_eq!(figure.pair(), Some(443.0));
        assert_eq!(figure.value("ns"), None);
        assert!("calls hit".parse::<Figure>().is_err());
        assert!("calls hit page map=".parse::<Figure>().is_err());
    }

    #[test]
    fn sums_are_of_one_name() {
        let figures = Figures {
            kernel: String::new(),
            figures: ["io a x v=3", "io a x v=1", "io b x v=9", "io a x v=2"]
                .map(|text| text.parse().unwrap())
                .into(),
        };
        let sum = |mode| figures.sum("io", mode, "x", "v");
        assert_eq!((sum("a"), sum("b"), sum("c")), (Some(6.0), Some(9.0), None));
        assert_eq!(figures.least("io", "a", "x", "v"), Some(1.0));
    }

    #[test]
    fn ratios_need_both_sides() {
        assert_eq!(ratio(Some(3.0), Some(2.0)), Some(1.5));
        assert_eq!(ratio(Some(3.0), Some(0.0)), None);
        assert_eq!(ratio(None, Some(2.0)), None);
    }
}
