// SPDX-License-Identifier: GPL-2.0

//! The file that `record` writes and other commands read: lines of JSON, packed by gzip or not. A
//! [`Header`] comes first, then the events in the order of the kernel with notes of lost ones, and
//! an [`End`]. A recording without its end is used as far as it goes. Numbers are of 64 bits.

use crate::debugfs::Window;
use crate::event::{
    Event,
    Names, //
};
use crate::output;
use crate::system::{
    Companion,
    System, //
};
use anyhow::{
    bail,
    Context,
    Result, //
};
use flate2::{
    bufread::MultiGzDecoder,
    write::GzEncoder,
    Compression, //
};
use serde::{
    Deserialize,
    Serialize, //
};
use std::{
    cell::Cell,
    fs::File,
    io::{
        self,
        BufRead,
        BufReader,
        BufWriter,
        Read,
        Write, //
    },
    path::Path,
    rc::Rc, //
};

/// Version of the format. In format 1 the numbers of the files `status` are text.
const FORMAT: u32 = 2;

/// First bytes of a packed file.
const PACKED: &[u8] = &[0x1f, 0x8b];

/// The effort for packing: more would take the recorder longer than the events take.
const EFFORT: u32 = 3;

/// Size of buffers, in bytes.
const BUFFER: usize = 1 << 20;

/// Bounds of what is read: a file may be anything.
struct Bounds {
    /// Bytes of a line. The longest ones have the windows of all companions, 90 bytes each.
    line: u64,
    /// Events, of which each takes 120 bytes of memory.
    events: usize,
}

const BOUNDS: Bounds = Bounds {
    line: 64 << 20,
    events: 8 << 20,
};

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
    /// [`FORMAT`], or an earlier one.
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

/// A line that is no event.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Lost { cpu: u32, lost: u64 },
    End { end: Box<End> },
}

/// A file that is written, packed or not.
enum Output {
    Plain(BufWriter<Box<dyn Write>>),
    Packed(BufWriter<GzEncoder<Box<dyn Write>>>),
}

impl Output {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Plain(out) => out,
            Self::Packed(out) => out,
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(mut out) => out.flush(),
            Self::Packed(out) => out.into_inner()?.finish()?.flush(),
        }
    }
}

/// Writer of a recording.
pub struct Writer {
    out: Output,
    line: Vec<u8>,
    events: u64,
    lost: u64,
}

impl Writer {
    /// Starts a recording in `out`. The header is there at once.
    pub fn new(out: Box<dyn Write>, is_packed: bool, header: &Header) -> Result<Self> {
        let mut writer = Self {
            out: if is_packed {
                let encoder = GzEncoder::new(out, Compression::new(EFFORT));
                Output::Packed(BufWriter::with_capacity(BUFFER, encoder))
            } else {
                Output::Plain(BufWriter::with_capacity(BUFFER, out))
            },
            line: Vec::new(),
            events: 0,
            lost: 0,
        };
        writer.line(header)?;
        writer.flush()?;
        Ok(writer)
    }

    fn line(&mut self, line: &impl Serialize) -> Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line)?;
        self.line.push(b'\n');
        Ok(self.out.writer().write_all(&self.line)?)
    }

    /// Writes everything so far to the file, where it stays if the recorder is killed.
    pub fn flush(&mut self) -> Result<()> {
        Ok(self.out.writer().flush()?)
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
        self.out.finish()?;
        Ok(end)
    }
}

/// A reader that counts the bytes.
struct Counted<R> {
    inner: R,
    read: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.set(self.read.get() + read as u64);
        Ok(read)
    }
}

/// The result of reading a line.
enum NextLine {
    /// A line, with its end.
    Whole,
    /// The end of the file, or a line that was cut.
    End,
    /// A line that is too long.
    TooLong,
    /// An error: the rest cannot be read.
    Failed(io::Error),
}

/// A file that is read line by line.
struct Lines {
    input: Box<dyn BufRead>,
    line: Vec<u8>,
    max: u64,
}

impl Lines {
    /// Returns the lines of `input`, unpacked if it is packed.
    fn new(input: impl Read + 'static, max: u64) -> io::Result<Self> {
        let mut input = BufReader::with_capacity(BUFFER, input);
        let input: Box<dyn BufRead> = if input.fill_buf()?.starts_with(PACKED) {
            Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(input)))
        } else {
            Box::new(input)
        };
        let line = Vec::new();
        Ok(Self { input, line, max })
    }

    fn next(&mut self) -> NextLine {
        self.line.clear();
        let mut part = self.input.by_ref().take(self.max);
        match part.read_until(b'\n', &mut self.line) {
            Err(error) => NextLine::Failed(error),
            Ok(_) if self.line.ends_with(b"\n") => NextLine::Whole,
            Ok(read) if read as u64 == self.max => NextLine::TooLong,
            Ok(_) => NextLine::End,
        }
    }
}

/// Returns whether an error says that a packed file was cut or changed, rather than that it cannot
/// be read.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), UnexpectedEof | InvalidInput | InvalidData)
}

/// A recording.
#[derive(Debug)]
pub struct Recording {
    pub header: Header,
    /// In the order of the kernel.
    pub events: Vec<Event>,
    /// As recorded, or what is known of it.
    pub end: End,
    /// The reason why only a part of the recording is used, in a sentence.
    pub cut: Option<String>,
}

impl Recording {
    /// Reads the file at `path`, or the standard input; an error tells why nothing of it can be
    /// used. Calls `progress` with the bytes read so far, and all bytes if these are known.
    pub fn read(path: &Path, progress: impl FnMut(u64, Option<u64>)) -> Result<Self> {
        if output::is_standard(path) {
            return Self::read_from(io::stdin(), "standard input", None, &BOUNDS, progress);
        }
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| name.clone())?;
        let all = file.metadata().with_context(|| name.clone())?.len();
        Self::read_from(file, &name, Some(all), &BOUNDS, progress)
    }

    fn read_from(
        input: impl Read + 'static,
        name: &str,
        all: Option<u64>,
        bounds: &Bounds,
        mut progress: impl FnMut(u64, Option<u64>),
    ) -> Result<Self> {
        let read = Rc::new(Cell::new(0));
        let input = Counted {
            inner: input,
            read: read.clone(),
        };
        let mut lines = Lines::new(input, bounds.line).with_context(|| name.to_owned())?;
        match lines.next() {
            NextLine::Failed(error) if !is_damage(&error) => {
                return Err(error).context(name.to_owned())
            }
            NextLine::End if lines.line.is_empty() => {
                bail!("{name} is empty: no recording of apple-dma-pci")
            }
            _ => {}
        }
        let header = header(&lines.line, name)?;
        let (mut events, mut names, mut lost) = (Vec::new(), Names::default(), 0);
        let cut = loop {
            let next = lines.next();
            progress(read.get(), all);
            let count = events.len();
            match next {
                NextLine::Whole => {}
                NextLine::End => {
                    break format!(
                        "{name} is not whole: it ends after {count} events, since the recorder did \
                         not end it or the file was cut"
                    );
                }
                NextLine::TooLong => {
                    break format!("{name} is damaged: a line after {count} events is too long")
                }
                NextLine::Failed(error) if is_damage(&error) => {
                    break format!(
                        "{name} is not whole: it is cut, or damaged, after {count} events"
                    );
                }
                NextLine::Failed(error) => {
                    break format!("{name} cannot be read after {count} events: {error}")
                }
            }
            if let Some(event) = Event::from_json(&lines.line, &mut names) {
                if count == bounds.events {
                    break format!("{name} is too large: it has more than {count} events");
                }
                events.push(event);
                continue;
            }
            match serde_json::from_slice(&lines.line) {
                Ok(Line::Lost { lost: more, .. }) => lost += more,
                Ok(Line::End { end }) => {
                    let cut = (end.events != count as u64).then(|| {
                        format!(
                            "{name} is damaged: it has {count} events, and should have {}",
                            end.events
                        )
                    });
                    return Ok(Self {
                        header,
                        events,
                        end: *end,
                        cut,
                    });
                }
                Err(_) => {
                    break format!("{name} is damaged: what follows {count} events is no event")
                }
            }
        };
        let span = events.first().zip(events.last());
        let us = span.map_or(0, |(first, last)| last.us.saturating_sub(first.us));
        Ok(Self {
            header,
            end: End {
                seconds: us as f64 / 1e6,
                events: events.len() as u64,
                lost,
                status: None,
                after: Vec::new(),
            },
            events,
            cut: Some(format!("{cut}; only these are used")),
        })
    }
}

/// Returns the header that `line` is; an error tells why it is none.
fn header(line: &[u8], name: &str) -> Result<Header> {
    let format = serde_json::from_slice::<serde_json::Value>(line).ok();
    let format = format.and_then(|value| value.get("apple_dma_pci_recording")?.as_u64());
    match format {
        None => bail!("{name} is no recording of apple-dma-pci"),
        Some(format) if !(1..=u64::from(FORMAT)).contains(&format) => bail!(
            "{name} is a recording of format {format}; this version reads formats up to {FORMAT}"
        ),
        Some(_) => {}
    }
    serde_json::from_slice(line).with_context(|| format!("{name}: line 1"))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::event::{
        self,
        EventKind, //
    };
    use crate::system;
    use std::{
        fs,
        path::PathBuf, //
    };
    use tempfile::TempDir;

    /// Returns a recording of the fixture's events, with the fixture's state at both ends.
    pub fn fixture() -> (TempDir, PathBuf) {
        written(true)
    }

    fn written(is_packed: bool) -> (TempDir, PathBuf) {
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
        let file = Box::new(File::create(&path).unwrap());
        let mut writer = Writer::new(file, is_packed, &header).unwrap();
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

    fn read(path: &Path) -> Result<Recording> {
        Recording::read(path, |_, _| ())
    }

    /// Returns the recording that `bytes` are, and the reason why it is used in part.
    fn parse(bytes: &[u8]) -> (Recording, String) {
        let input = io::Cursor::new(bytes.to_vec());
        let read = Recording::read_from(input, "FILE", None, &BOUNDS, |_, _| ());
        let recording = read.unwrap();
        let cut = recording.cut.clone().unwrap_or_default();
        assert_eq!(cut.lines().count(), usize::from(!cut.is_empty()), "{cut}");
        (recording, cut)
    }

    #[test]
    fn a_recording_is_read_as_it_was_written() {
        let ((_first, packed), (_second, plain)) = (written(true), written(false));
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(size(&packed) * 4 < size(&plain));
        for path in [packed, plain] {
            let mut seen = (0, None);
            let recording = Recording::read(&path, |done, all| seen = (done, all)).unwrap();
            assert_eq!(
                (Some(seen.0), seen.1),
                (Some(size(&path)), Some(size(&path)))
            );
            assert_eq!(recording.cut, None);
            assert_eq!(recording.end.events, recording.events.len() as u64);
            assert_eq!(
                recording.header.before[0].windows.len(),
                recording.end.after[0].windows.len()
            );
            assert!(matches!(
                recording.events[0].kind,
                EventKind::Map { .. }
                    | EventKind::WindowCreated { .. }
                    | EventKind::Doorbell { .. }
            ));
        }
    }

    #[test]
    fn recordings_of_earlier_versions_are_read() {
        let (_dir, path) = written(false);
        let new = fs::read_to_string(path).unwrap();
        let old = new.replacen("_recording\":2", "_recording\":1", 1);
        let old = old.replace("\"batch_max\":256", "\"batch_max\":\"256\"");
        assert_ne!(old, new);
        let (recording, cut) = parse(old.as_bytes());
        assert_eq!(cut, "");
        let details = recording.header.before[0].companion.details.as_ref();
        assert_eq!(details.unwrap().status_number("batch_max"), Some(256));
        assert_eq!(recording.events.len() as u64, recording.end.events);
    }

    #[test]
    fn what_is_no_recording_is_said_in_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let error = |bytes: &[u8]| {
            let path = dir.path().join("other");
            fs::write(&path, bytes).unwrap();
            let error = format!("{:#}", read(&path).unwrap_err());
            assert_eq!(error.lines().count(), 1, "{error}");
            error
        };
        assert!(error(b"").contains("is empty"));
        assert!(error(b"hello\n").contains("is no recording"));
        assert!(error(b"\x1f\x8bhello\n").contains("is no recording"));
        assert!(error(b"{}\n").contains("is no recording"));
        assert!(error(b"{\"apple_dma_pci_recording\":9}\n").contains("format 9"));
        assert!(error(b"{\"apple_dma_pci_recording\":0}\n").contains("format 0"));
        assert!(error(b"{\"apple_dma_pci_recording\":2").contains("is no recording"));
        let error = read(&dir.path().join("none")).unwrap_err();
        assert!(format!("{error:#}").contains("No such file"));
        assert!(read(dir.path()).is_err());
    }

    #[test]
    fn what_was_cut_is_used_as_far_as_it_goes() {
        let (_dir, path) = written(false);
        let whole = fs::read(&path).unwrap();
        let all = parse(&whole).0.events;
        let lines: Vec<_> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        // Behind each line, and in the middle of it.
        for count in [1, 2, 7, lines.len() - 2, lines.len() - 1] {
            let middle = [&lines[..count].concat(), &lines[count][..20]].concat();
            for bytes in [lines[..count].concat(), middle] {
                let (recording, cut) = parse(&bytes);
                assert!(cut.contains("is not whole"), "{cut}");
                assert!(cut.ends_with("only these are used"), "{cut}");
                assert_eq!(recording.events, all[..count - 1]);
                assert_eq!(recording.end.events, count as u64 - 1);
                assert!(recording.end.after.is_empty());
                assert!((0.0..10.0).contains(&recording.end.seconds));
            }
        }
        let strange = [lines[0], lines[1], b"hello\n", lines[2]].concat();
        let (recording, cut) = parse(&strange);
        assert_eq!(recording.events, all[..1]);
        assert!(cut.contains("what follows 1 events is no event"), "{cut}");
        let few = [lines[0], lines[lines.len() - 1]].concat();
        let (recording, cut) = parse(&few);
        assert!(cut.contains("it has 0 events, and should have"), "{cut}");
        assert_eq!(recording.end.after.len(), 1);
    }

    #[test]
    fn what_is_packed_and_was_cut_is_used_as_far_as_it_goes() {
        let (_dir, path) = written(true);
        let whole = fs::read(&path).unwrap();
        let all = parse(&whole).0.events;
        for part in [40, 50, 60] {
            let (recording, cut) = parse(&whole[..whole.len() * part / 100]);
            assert!(cut.contains("is not whole"), "{cut}");
            let count = recording.events.len();
            assert!(count < all.len());
            assert_eq!(recording.events, all[..count]);
        }
        let mut changed = whole.clone();
        let last = changed.len() - 6;
        changed[last] ^= 1;
        // The checksum is behind the last line.
        assert_eq!(parse(&changed).0.events, all);
    }

    /// Returns the header of a recording of `system`, without texts.
    fn empty(system: &System) -> Header {
        Header {
            apple_dma_pci_recording: FORMAT,
            version: String::new(),
            kernel: String::new(),
            command: Vec::new(),
            ram: Vec::new(),
            before: snapshots(system).unwrap(),
        }
    }

    #[test]
    fn what_was_flushed_is_there() {
        let (dir, system) = system::tests::fixture();
        for is_packed in [false, true] {
            let path = dir.path().join("killed");
            let header = empty(&system);
            let file = Box::new(File::create(&path).unwrap());
            let mut writer = Writer::new(file, is_packed, &header).unwrap();
            assert!(read(&path).unwrap().events.is_empty());
            writer.lost(1, 12).unwrap();
            writer.flush().unwrap();
            let recording = read(&path).unwrap();
            assert_eq!(recording.end.lost, 12);
            assert!(recording.cut.unwrap().contains("after 0 events"));
            // As if the recorder had been killed.
            std::mem::forget(writer);
        }
    }

    /// Checks that two million events take 60 MB at most, even if all that they have is random.
    #[test]
    fn an_event_takes_thirty_bytes() {
        let (dir, system) = system::tests::fixture();
        let header = empty(&system);
        let path = dir.path().join("large");
        let file = Box::new(File::create(&path).unwrap());
        let mut writer = Writer::new(file, true, &header).unwrap();
        let size = || fs::metadata(&path).unwrap().len();
        let before = size();
        let mut state: u64 = 1;
        let mut random = |most: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % most
        };
        let mut us = 7_000_000;
        let mut mapped = Vec::new();
        let count = 10_000;
        for _ in 0..count {
            us += random(12);
            let kind = if mapped.len() < 300 || mapped.len() < 600 && random(2) == 0 {
                let gpa = 0x4000_0000 + (random(1 << 18) << 12);
                let (dma, size) = (gpa + 0x8000_c000_0000 + (random(64) << 14), 4096);
                mapped.push((gpa, dma, size));
                let (ns, entry, entries) = (200 + random(2000), 0, 1);
                let source = crate::event::MapPath::Window;
                EventKind::Map {
                    gpa,
                    dma,
                    size,
                    ns,
                    entry,
                    entries,
                    source,
                    copyable: crate::event::Copyable::FromDevice,
                }
            } else {
                // CAST: Less than the length.
                let (gpa, dma, size) = mapped.swap_remove(random(mapped.len() as u64) as usize);
                let (ns, entry, entries) = (200 + random(2000), 0, 1);
                EventKind::Unmap {
                    gpa,
                    dma,
                    size,
                    ns,
                    entry,
                    entries,
                }
            };
            let event = Event {
                us,
                // CAST: Small numbers.
                cpu: random(4) as u32,
                task: ["fio", "swapper/0", "kworker/u8:1"][random(3) as usize].into(),
                pid: 109,
                companion: "0000:00:10.0".into(),
                device: "0000:00:06.0".into(),
                kind,
            };
            writer.event(&event).unwrap();
        }
        writer.flush().unwrap();
        let each = (size() - before) as f64 / f64::from(count);
        assert!((10.0..30.0).contains(&each), "{each}");
    }

    #[test]
    fn no_more_is_read_than_fits() {
        let (_dir, path) = fixture();
        let read = |bounds: Bounds| {
            let file = File::open(&path).unwrap();
            Recording::read_from(file, "FILE", None, &bounds, |_, _| ())
        };
        let line = BOUNDS.line;
        let recording = read(Bounds { line, events: 5 }).unwrap();
        assert_eq!(recording.events.len(), 5);
        assert!(recording.cut.unwrap().contains("more than 5 events"));
        let events = BOUNDS.events;
        let error = read(Bounds { line: 100, events }).unwrap_err();
        assert!(error.to_string().contains("is no recording"), "{error}");
        let (_dir, path) = written(false);
        let mut bytes = fs::read(path).unwrap();
        let header = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        bytes.truncate(header);
        bytes.extend(vec![b'x'; header + 1]);
        let line = header as u64;
        let input = io::Cursor::new(bytes);
        let bounds = Bounds { line, events };
        let recording = Recording::read_from(input, "FILE", None, &bounds, |_, _| ()).unwrap();
        assert!(recording
            .cut
            .unwrap()
            .contains("a line after 0 events is too long"));
    }
}
