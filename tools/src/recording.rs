// SPDX-License-Identifier: GPL-2.0

//! The file that `record` writes and other commands read: lines of JSON, a [`Header`], then the
//! events in the order of the kernel with notes of lost ones, and an [`End`], without which the
//! recording is not complete. Numbers are of 64 bits.

use crate::debugfs::Window;
use crate::event::Event;
use crate::system::{
    Companion,
    System, //
};
use anyhow::{
    bail,
    Context,
    Result, //
};
use serde::{
    Deserialize,
    Serialize, //
};
use std::{
    fs::File,
    io::{
        BufRead,
        BufReader,
        BufWriter,
        Write, //
    },
    path::Path, //
};

/// Version of the format.
const FORMAT: u32 = 1;

/// State of a companion at one end of the recording.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its files.
    #[serde(flatten)]
    pub companion: Companion,
    /// Its windows.
    pub windows: Vec<Window>,
}

/// Returns snapshots of all companions.
pub fn snapshots(system: &System) -> Result<Vec<Snapshot>> {
    let mut snapshots = Vec::new();
    for name in system.companions()? {
        if let Some(companion) = system.companion(&name)? {
            let windows = match companion.details {
                Some(_) => system.windows(&name)?,
                None => Vec::new(),
            };
            snapshots.push(Snapshot { companion, windows });
        }
    }
    Ok(snapshots)
}

/// The first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub apple_dma_pci_recording: u32,
    /// The version of the program that recorded.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// The recorded command; empty for a recording of some duration.
    pub command: Vec<String>,
    /// First addresses and bytes of the blocks of RAM.
    pub ram: Vec<(u64, u64)>,
    /// All companions, before the first event.
    pub before: Vec<Snapshot>,
}

impl Header {
    /// Returns the header for the current state of `system`.
    pub fn new(system: &System, command: &[String]) -> Result<Self> {
        Ok(Self {
            apple_dma_pci_recording: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: system.kernel(),
            command: command.to_vec(),
            ram: system.ram()?,
            before: snapshots(system)?,
        })
    }
}

/// The last line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct End {
    /// Duration of the recording.
    pub seconds: f64,
    /// Number of events.
    pub events: u64,
    /// Number of events that were lost, as they were not read in time.
    pub lost: u64,
    /// The command's exit status.
    pub status: Option<i32>,
    /// All companions, after the last event.
    pub after: Vec<Snapshot>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Lost { cpu: u32, lost: u64 },
    End { end: Box<End> },
    Event(Event),
}

/// Writer of a recording.
pub struct Writer {
    out: BufWriter<File>,
    events: u64,
    lost: u64,
}

impl Writer {
    /// Starts a recording in `file`.
    pub fn new(file: File, header: &Header) -> Result<Self> {
        let mut writer = Self {
            out: BufWriter::with_capacity(1 << 20, file),
            events: 0,
            lost: 0,
        };
        writer.line(header)?;
        Ok(writer)
    }

    fn line(&mut self, line: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        Ok(self.out.write_all(b"\n")?)
    }

    /// Returns the numbers of events, recorded and lost.
    pub fn counts(&self) -> (u64, u64) {
        (self.events, self.lost)
    }

    /// Adds an event.
    pub fn event(&mut self, event: &Event) -> Result<()> {
        self.events += 1;
        self.line(event)
    }

    /// Notes the loss of events.
    pub fn lost(&mut self, cpu: u32, lost: u64) -> Result<()> {
        self.lost += lost;
        self.line(&Line::Lost { cpu, lost })
    }

    /// Ends the recording.
    pub fn end(mut self, seconds: f64, status: Option<i32>, after: Vec<Snapshot>) -> Result<End> {
        let end = End {
            seconds,
            events: self.events,
            lost: self.lost,
            status,
            after,
        };
        self.line(&Line::End {
            end: Box::new(end.clone()),
        })?;
        self.out.flush()?;
        Ok(end)
    }
}

/// A complete recording.
#[derive(Debug)]
pub struct Recording {
    pub header: Header,
    /// In the order of the kernel.
    pub events: Vec<Event>,
    pub end: End,
}

impl Recording {
    /// Reads the file at `path`; an error tells what is wrong with it. Calls `progress` with the
    /// bytes read so far, and all bytes.
    pub fn read(path: &Path, mut progress: impl FnMut(u64, u64)) -> Result<Self> {
        let name = path.display();
        let file = File::open(path).with_context(|| name.to_string())?;
        let all = file.metadata().with_context(|| name.to_string())?.len();
        let mut input = BufReader::with_capacity(1 << 20, file);
        let mut line = String::new();
        let mut done: u64 = 0;
        let mut next = |line: &mut String| -> Result<bool> {
            line.clear();
            let read = input.read_line(line).with_context(|| name.to_string())?;
            done += read as u64;
            progress(done, all);
            Ok(read != 0)
        };
        if !next(&mut line)? {
            bail!("{name} is empty: no recording of apple-dma-pci");
        }
        let format = serde_json::from_str::<serde_json::Value>(&line).ok();
        let format = format.and_then(|value| value.get("apple_dma_pci_recording")?.as_u64());
        match format {
            None => bail!("{name} is no recording of apple-dma-pci"),
            Some(format) if format != u64::from(FORMAT) => {
                bail!("{name} is a recording of format {format}; this version reads {FORMAT}")
            }
            Some(_) => {}
        }
        let header = serde_json::from_str(&line).with_context(|| format!("{name}: line 1"))?;
        let mut events = Vec::new();
        while next(&mut line)? {
            if !line.ends_with('\n') {
                break;
            }
            let number = events.len() + 2;
            match serde_json::from_str(&line) {
                Ok(Line::Event(event)) => events.push(event),
                Ok(Line::Lost { .. }) => {}
                Ok(Line::End { end }) => {
                    if end.events != events.len() as u64 {
                        bail!(
                            "{name} is damaged: it has {} events, not {}",
                            events.len(),
                            end.events
                        );
                    }
                    return Ok(Self {
                        header,
                        events,
                        end: *end,
                    });
                }
                Err(_) => bail!("{name} is damaged: line {number} is no event"),
            }
        }
        bail!(
            "{name} is not whole: it ends after {} events, since the recorder did not end it or \
             the file was cut",
            events.len()
        )
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::event::{
        self,
        EventKind, //
    };
    use crate::system;
    use std::fs;

    /// Returns a recording of the fixture's events, with the fixture's state at both ends.
    pub fn fixture() -> (tempfile::TempDir, std::path::PathBuf) {
        let (dir, system) = system::tests::fixture();
        let path = dir.path().join("recording");
        let header = Header {
            apple_dma_pci_recording: FORMAT,
            version: "0.1.0".to_owned(),
            kernel: "7.2".to_owned(),
            command: vec!["true".to_owned()],
            ram: vec![(0x4000_0000, 0x4000_0000)],
            before: snapshots(&system).unwrap(),
        };
        let mut writer = Writer::new(File::create(&path).unwrap(), &header).unwrap();
        for line in include_str!("fixtures/trace").lines() {
            if let event::Line::Event(event) = event::line(line) {
                writer.event(&event).unwrap();
            }
        }
        writer
            .end(1.5, Some(0), snapshots(&system).unwrap())
            .unwrap();
        (dir, path)
    }

    #[test]
    fn a_recording_is_read_as_it_was_written() {
        let (_dir, path) = fixture();
        let mut seen = (0, 0);
        let recording = Recording::read(&path, |done, all| seen = (done, all)).unwrap();
        assert_eq!(seen.0, seen.1);
        assert_eq!(recording.end.events, recording.events.len() as u64);
        assert_eq!(
            recording.header.before[0].windows.len(),
            recording.end.after[0].windows.len()
        );
        assert!(matches!(
            recording.events[0].kind,
            EventKind::Map { .. } | EventKind::WindowCreated { .. } | EventKind::Doorbell { .. }
        ));
    }

    #[test]
    fn what_is_no_recording_is_said_in_a_sentence() {
        let (dir, path) = fixture();
        let whole = fs::read_to_string(&path).unwrap();
        let error = |text: &str| {
            let path = dir.path().join("other");
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", Recording::read(&path, |_, _| ()).unwrap_err());
            assert_eq!(error.lines().count(), 1, "{error}");
            error
        };
        assert!(error("").contains("is empty"));
        assert!(error("hello\n").contains("is no recording"));
        assert!(error("{}\n").contains("is no recording"));
        assert!(error("{\"apple_dma_pci_recording\":9}\n").contains("format 9"));
        let lines: Vec<_> = whole.lines().collect();
        let cut = lines[..lines.len() - 1].join("\n");
        assert!(error(&cut).contains("is not whole"));
        assert!(error(&whole[..whole.len() - 3]).contains("is not whole"));
        let (first, rest) = whole.split_once('\n').unwrap();
        assert!(error(&format!("{first}\nhello\n{rest}")).contains("line 2"));
        let few = format!("{first}\n{}\n", lines.last().unwrap());
        assert!(error(&few).contains("0 events, not"));
        let error = Recording::read(&dir.path().join("none"), |_, _| ()).unwrap_err();
        assert!(format!("{error:#}").contains("No such file"));
    }
}
