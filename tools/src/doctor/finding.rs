// SPDX-License-Identifier: GPL-2.0

//! What a check says: how bad it is, what was found, and what to do about it.

use serde::Serialize;
use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It could not be looked at.
    Unknown,
    /// It works, but not as well as it could, or not for long.
    Warning,
    /// It does not work.
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

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found, in a line.
    pub found: String,
    /// What to do, in a line. Nothing if all is well.
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

    /// All is well.
    pub fn ok(found: impl Into<String>) -> Self {
        Finding::new(Severity::Ok, found, None)
    }

    /// It could not be looked at.
    pub fn unknown(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding::new(Severity::Unknown, found, Some(advice.into()))
    }

    /// It could be better.
    pub fn warning(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding::new(Severity::Warning, found, Some(advice.into()))
    }

    /// It does not work.
    pub fn problem(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding::new(Severity::Problem, found, Some(advice.into()))
    }
}
