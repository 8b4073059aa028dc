// SPDX-License-Identifier: GPL-2.0

//! Messages of the guest's scripts, and answers to them. image/lib.sh is the other end. A message
//! is a line:
//!
//! - `ok NAME`, `fail NAME: REASON`: an assertion;
//! - `info TEXT`: a remark for the reader;
//! - `figure TEXT`: a measurement, see `bench`;
//! - `stat POINTER`: a request for a value of the simulator's statistics, by JSON pointer;
//! - `mac JSON`: a request to the simulator's control socket;
//! - `qmp JSON`: a request to QEMU's monitor, with `{run}` for the directory of the run;
//! - `digest FILE`: a request for the SHA-256 of a file in that directory;
//! - `plug`, `unplug`: a request to plug or unplug the scenario's further memory;
//! - `balloon MIB`: a request to set the size that the balloon leaves the guest; the answer is the
//!   guest's size, in MiB, after at most two minutes;
//! - `resize MIB`: likewise the size of the memory that virtio-mem gives the guest;
//! - `cut`: a power cut: the machine is reset at once, whatever it is doing. No answer, which the
//!   next boot would read;
//! - `remember TEXT`: a request to store the text, which has no blanks, beyond power cuts;
//! - `recall`: a request for all of these texts, in order, with blanks between;
//! - `boots`: a request for the number of such requests so far: scripts send one per boot;
//! - `done`: the end of the scenario's script.
//!
//! Requests are answered with one line: the value, or `error: REASON`.

use crate::mac::Control;
use crate::qemu::Monitor;
use anyhow::{
    bail,
    Context,
    Result, //
};
use serde_json::Value;
use std::{
    io::{
        BufRead,
        BufReader,
        Write, //
    },
    os::unix::net::UnixListener,
    sync::mpsc::Sender, //
};

/// A message of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An assertion held.
    Ok(String),
    /// An assertion failed, with the reason.
    Fail(String, String),
    /// A remark.
    Info(String),
    /// A measurement.
    Figure(String),
    /// The script reached its end.
    Done,
}

/// Accepts QEMU's connection on `listener`, forwards the guest's messages and answers its requests
/// until QEMU ends.
pub fn serve(
    listener: &UnixListener,
    mut control: Option<&mut Control>,
    monitor: &Monitor,
    events: &Sender<Event>,
) -> Result<()> {
    let (stream, _) = listener.accept()?;
    let mut answers = stream.try_clone()?;
    let mut memory = Memory::default();
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else {
            // QEMU was killed.
            break;
        };
        match parse(&line) {
            Message::Event(event) => {
                // The receiver is dropped when the run was aborted.
                let _ = events.send(event);
            }
            Message::Cut => {
                if let Err(error) = monitor.reset() {
                    let _ = events.send(Event::Fail("cut".to_owned(), format!("{error:#}")));
                }
            }
            Message::Question(question) => {
                let answer = match ask(question, control.as_deref_mut(), monitor, &mut memory) {
                    Ok(answer) => answer,
                    Err(error) => format!("error: {error:#}"),
                };
                writeln!(answers, "{answer}")?;
            }
        }
    }
    Ok(())
}

/// State of the channel that outlives the guest's.
#[derive(Default)]
struct Memory {
    boots: u32,
    texts: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Question<'a> {
    Stat(&'a str),
    Mac(&'a str),
    Qmp(&'a str),
    Digest(&'a str),
    Plug,
    Unplug,
    Balloon(&'a str),
    Resize(&'a str),
    Remember(&'a str),
    Recall,
    Boots,
}

#[derive(Debug, PartialEq, Eq)]
enum Message<'a> {
    Event(Event),
    Cut,
    Question(Question<'a>),
}

fn parse(line: &str) -> Message<'_> {
    let line = line.trim();
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    Message::Event(match word {
        "ok" => Event::Ok(rest.to_owned()),
        "fail" => {
            let (name, reason) = rest.split_once(": ").unwrap_or((rest, "no reason given"));
            Event::Fail(name.to_owned(), reason.to_owned())
        }
        "info" => Event::Info(rest.to_owned()),
        "figure" => Event::Figure(rest.to_owned()),
        "done" => Event::Done,
        "stat" => return Message::Question(Question::Stat(rest)),
        "mac" => return Message::Question(Question::Mac(rest)),
        "qmp" => return Message::Question(Question::Qmp(rest)),
        "digest" => return Message::Question(Question::Digest(rest)),
        "plug" => return Message::Question(Question::Plug),
        "unplug" => return Message::Question(Question::Unplug),
        "balloon" => return Message::Question(Question::Balloon(rest)),
        "resize" => return Message::Question(Question::Resize(rest)),
        "cut" => return Message::Cut,
        "remember" => return Message::Question(Question::Remember(rest)),
        "recall" => return Message::Question(Question::Recall),
        "boots" => return Message::Question(Question::Boots),
        _ => Event::Fail("channel".to_owned(), format!("cannot read '{line}'")),
    })
}

fn ask(
    question: Question<'_>,
    control: Option<&mut Control>,
    monitor: &Monitor,
    memory: &mut Memory,
) -> Result<String> {
    let control = || control.context("there is no simulated Mac");
    match question {
        Question::Qmp(command) => Ok(monitor.request(command)?.to_string()),
        Question::Digest(file) => monitor.digest(file),
        Question::Plug => monitor.plug().map(|()| "plugged".to_owned()),
        Question::Unplug => monitor.unplug().map(|()| "asked the guest".to_owned()),
        Question::Balloon(mib) => in_bytes(mib, |bytes| monitor.balloon(bytes)),
        Question::Resize(mib) => in_bytes(mib, |bytes| monitor.resize(bytes)),
        Question::Remember(text) => {
            memory.texts.push(text.to_owned());
            Ok("stored".to_owned())
        }
        Question::Recall => Ok(memory.texts.join(" ")),
        Question::Boots => {
            memory.boots += 1;
            Ok(memory.boots.to_string())
        }
        Question::Stat(pointer) => {
            let stats = control()?.ask(r#"{"cmd":"stats"}"#)?;
            match stats.pointer(pointer) {
                Some(Value::String(text)) => Ok(text.clone()),
                Some(value) => Ok(value.to_string()),
                None => bail!("no '{pointer}' in the statistics"),
            }
        }
        Question::Mac(request) => {
            let request: Value = serde_json::from_str(request).context("not JSON")?;
            Ok(control()?.ask(&request.to_string())?.to_string())
        }
    }
}

/// Calls `set` with `mib` MiB in bytes, and returns its result in MiB.
fn in_bytes(mib: &str, set: impl Fn(u64) -> Result<u64>) -> Result<String> {
    let mib: u64 = mib.parse().context("not a number of MiB")?;
    let bytes = mib.checked_shl(20).context("too much")?;
    Ok((set(bytes)? >> 20).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> Event {
        match parse(line) {
            Message::Event(event) => event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages() {
        assert_eq!(event("ok a b\r"), Event::Ok("a b".into()));
        assert_eq!(
            event("fail mkfs: no such file: x"),
            Event::Fail("mkfs".into(), "no such file: x".into())
        );
        assert_eq!(event("done"), Event::Done);
        assert_eq!(
            parse("stat /a/b"),
            Message::Question(Question::Stat("/a/b"))
        );
        assert_eq!(parse("cut"), Message::Cut);
        assert_eq!(
            parse("remember a.b"),
            Message::Question(Question::Remember("a.b"))
        );
        assert!(matches!(event("okay"), Event::Fail(..)));
    }
}
