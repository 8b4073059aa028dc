// SPDX-License-Identifier: GPL-2.0

//! The destinations of results: the standard output, as text or as JSON, files, and remarks beside
//! them. A reader that closes a pipe is no error.

use anyhow::{
    Context,
    Result, //
};
use serde::Serialize;
use std::{
    fs::File,
    io::{
        self,
        ErrorKind,
        Write, //
    },
    path::Path, //
};

/// Version of all JSON that is printed. Members may be added; what one means does not change.
const VERSION: u32 = 1;

/// The name of a file that stands for the standard input or output.
const STANDARD: &str = "-";

/// Returns whether a file's name stands for the standard input or output.
pub fn is_standard(path: &Path) -> bool {
    path.as_os_str() == STANDARD
}

/// A result with the version of its form.
#[derive(Serialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    result: T,
}

fn versioned<T>(result: T) -> Versioned<T> {
    let version = VERSION;
    Versioned { version, result }
}

/// Returns a result as JSON, in lines that people can read.
pub fn json(result: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(&versioned(result))? + "\n")
}

/// Returns a result as JSON, in one line.
pub fn json_line(result: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(&versioned(result))? + "\n")
}

/// Returns an error as a line of JSON.
pub fn json_error(error: &str) -> String {
    #[derive(Serialize)]
    struct Failure<'a> {
        error: &'a str,
    }
    // It consists of a number and a text, so that nothing can fail.
    json_line(&Failure { error }).unwrap_or_default()
}

/// Prints text, as it is.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())?;
    Ok(())
}

/// Prints a remark beside the result. Without a reader it is lost.
pub fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Creates a file, or returns the standard output if that is its name.
pub fn create(path: &Path) -> Result<Box<dyn Write>> {
    if is_standard(path) {
        return Ok(Box::new(io::stdout().lock()));
    }
    let file = File::create(path).with_context(|| path.display().to_string())?;
    Ok(Box::new(file))
}

/// Writes text to a file, or to the standard output if that is its name.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let mut out = create(path)?;
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.with_context(|| path.display().to_string())
}

/// Returns whether an error says that the reader of a pipe has closed it.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let json = cause.downcast_ref::<serde_json::Error>();
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let kind = kind.or(json.and_then(serde_json::Error::io_error_kind));
        kind == Some(ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use std::fs;

    #[test]
    fn json_has_a_version() {
        #[derive(Serialize)]
        struct Result {
            bytes: u64,
        }
        let result = Result { bytes: 7 };
        assert_eq!(json_line(&result).unwrap(), "{\"version\":1,\"bytes\":7}\n");
        let value: serde_json::Value = serde_json::from_str(&json(&result).unwrap()).unwrap();
        assert_eq!(value["version"], 1);
        assert_eq!(value["bytes"], 7);
        let value: serde_json::Value = serde_json::from_str(&json_error("a \"b\"")).unwrap();
        assert_eq!(value["error"], "a \"b\"");
        assert_eq!(value["version"], 1);
    }

    #[test]
    fn closed_pipes_are_known() {
        let closed = || io::Error::from(ErrorKind::BrokenPipe);
        assert!(is_closed_pipe(&closed().into()));
        assert!(is_closed_pipe(&anyhow::Error::from(closed()).context("-")));
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = serde_json::to_writer(Closed, &1).unwrap_err();
        assert!(is_closed_pipe(&error.into()));
        assert!(!is_closed_pipe(
            &io::Error::from(ErrorKind::NotFound).into()
        ));
        assert!(!is_closed_pipe(&anyhow!("BrokenPipe")));
    }

    #[test]
    fn a_dash_is_the_standard_output() {
        assert!(is_standard(Path::new("-")));
        assert!(!is_standard(Path::new("./-")));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, "text").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        let error = write(&dir.path().join("none/a"), "").unwrap_err();
        assert!(
            format!("{error:#}").contains("none/a: No such file"),
            "{error:#}"
        );
    }
}
