// SPDX-License-Identifier: GPL-2.0

//! A finding of a check: severity, text and advice.

use serde::Serialize;
use std::fmt;

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// The check was not possible.
    Unknown,
    /// Works, but not as well as possible, or not for long.
    Warning,
    /// Does not work.
    Problem,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Ok => "ok",
            Severity::Unknown => "unknown",
            Severity::Warning => "warning",
            Severity::Problem => "problem",
        })
    }
}

/// A finding of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The severity.
    pub severity: Severity,
    /// The text, in a line.
    pub found: String,
    /// The advice, in a line. [`None`] if none is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn new(severity: Severity, found: impl Into<String>, advice: Option<String>) -> Self {
        Finding {
            severity,
            found: found.into(),
            advice,
        }
    }

    /// Returns a finding without a problem.
    pub fn ok(found: impl Into<String>) -> Self {
        Finding::new(Severity::Ok, found, None)
    }

    /// Returns the finding of an impossible check.
    pub fn unknown(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding::new(Severity::Unknown, found, Some(advice.into()))
    }

    /// Returns a warning.
    pub fn warning(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding::new(Severity::Warning, found, Some(advice.into()))
    }

    /// Returns a problem.
    pub fn problem(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding::new(Severity::Problem, found, Some(advice.into()))
    }
}
