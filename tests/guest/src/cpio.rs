// SPDX-License-Identifier: GPL-2.0

//! Writer of the small archives that a scenario adds to the guests' root: "newc" cpio, as the
//! kernel unpacks it (Documentation/driver-api/early-userspace/).

use std::io::{
    self,
    Write, //
};

const DIRECTORY: u32 = 0o040755;
const FILE: u32 = 0o100644;
const PROGRAM: u32 = 0o100755;

/// An archive that is being written to `out`, which must be at a multiple of 4.
pub struct Archive<W: Write> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        // Small inode numbers: with one link each they need not differ from those of other
        // archives.
        Archive { out, inode: 1 }
    }

    /// Adds a directory; its parents must exist.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY, &[])
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, data: &[u8]) -> io::Result<()> {
        self.entry(path, FILE, data)
    }

    /// Adds an executable file.
    pub fn program(&mut self, path: &str, data: &[u8]) -> io::Result<()> {
        self.entry(path, PROGRAM, data)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        let size = u32::try_from(data.len())
            .map_err(|_| io::Error::other(format!("{path}: larger than 4 GiB")))?;
        let name_size = path.len() as u32 + 1;
        let links = 1;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize
        // check
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(header.len() + name_size as usize)?;
        self.out.write_all(data)?;
        self.pad(data.len())?;
        self.inode += 1;
        Ok(())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..written.wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_end_with_a_trailer() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("test").unwrap();
        archive.file("test/a", b"hello").unwrap();
        archive.program("test/run", b"#!").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<_> = (0..bytes.len())
            .filter(|&at| bytes[at..].starts_with(b"070701"))
            .collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|at| at % 4 == 0));
        assert!(bytes[starts[3]..].windows(10).any(|w| w == b"TRAILER!!!"));
        // mode, size and name of the second entry
        let second = std::str::from_utf8(&bytes[starts[1]..starts[1] + 110]).unwrap();
        assert_eq!(&second[14..22], "000081a4");
        assert_eq!(&second[54..62], "00000005");
        assert_eq!(&bytes[starts[1] + 110..starts[1] + 117], b"test/a\0");
    }
}
