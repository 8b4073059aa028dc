// SPDX-License-Identifier: GPL-2.0

//! A client of QEMU's qtest protocol: accesses to the memory of a machine that runs.
//!
//! Requests and answers are lines. QEMU handles them under its big lock: a thread that QEMU waits
//! for under that lock must not wait for an answer.

use std::{
    io::{
        self,
        BufRead,
        BufReader,
        Write, //
    },
    os::unix::net::UnixStream,
    path::Path, //
};

/// A connection.
#[derive(Debug)]
pub struct Client {
    requests: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::new(UnixStream::connect(path)?)
    }

    /// Creates a client on a connection.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self {
            requests: stream.try_clone()?,
            answers: BufReader::new(stream),
        })
    }

    /// Reads 32 bits at `addr`.
    pub fn read32(&mut self, addr: u64) -> io::Result<u32> {
        let value = self.value(&format!("readl {addr:#x}\n"))?;
        u32::try_from(value).map_err(io::Error::other)
    }

    /// Reads 64 bits at `addr`.
    pub fn read64(&mut self, addr: u64) -> io::Result<u64> {
        self.value(&format!("readq {addr:#x}\n"))
    }

    /// Writes 32 bits at `addr`.
    pub fn write32(&mut self, addr: u64, value: u32) -> io::Result<()> {
        self.request(&format!("writel {addr:#x} {value:#x}\n"))
            .map(drop)
    }

    /// Writes 64 bits at `addr`.
    pub fn write64(&mut self, addr: u64, value: u64) -> io::Result<()> {
        self.request(&format!("writeq {addr:#x} {value:#x}\n"))
            .map(drop)
    }

    fn value(&mut self, request: &str) -> io::Result<u64> {
        let answer = self.request(request)?;
        answer
            .strip_prefix("0x")
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .ok_or_else(|| bad(request, &answer))
    }

    /// Sends `request` and returns what follows `OK` in the answer.
    fn request(&mut self, request: &str) -> io::Result<String> {
        self.requests.write_all(request.as_bytes())?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.answers.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim();
            match line.split_once(' ').unwrap_or((line, "")) {
                // An interrupt that QEMU reports by itself.
                ("IRQ", _) => (),
                ("OK", value) => return Ok(value.to_owned()),
                _ => return Err(bad(request, line)),
            }
        }
    }
}

fn bad(request: &str, answer: &str) -> io::Error {
    io::Error::other(format!(
        "qtest answered '{answer}' to '{}'",
        request.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Returns a client and a thread that answers with `answers`, and returns the requests.
    fn server(answers: &[&str]) -> (Client, thread::JoinHandle<Vec<String>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let answers: Vec<_> = answers.iter().map(|&answer| answer.to_owned()).collect();
        let server = thread::spawn(move || {
            let mut requests = BufReader::new(theirs.try_clone().unwrap()).lines();
            let mut out = theirs;
            let answer = |answer: String| {
                let request = requests.next().unwrap().unwrap();
                out.write_all(answer.as_bytes()).unwrap();
                request
            };
            answers.into_iter().map(answer).collect()
        });
        (Client::new(ours).unwrap(), server)
    }

    #[test]
    fn requests_and_answers() {
        let answers = ["OK\n", "IRQ raise 3\nOK 0x00000000000000ff\n", "OK 0x5\n"];
        let (mut client, server) = server(&answers);
        client.write64(0xfed9_0020, 0x3000_0000).unwrap();
        assert_eq!(client.read64(0xfed9_0008).unwrap(), 0xff);
        assert_eq!(client.read32(0xfed9_001c).unwrap(), 5);
        assert_eq!(
            server.join().unwrap(),
            [
                "writeq 0xfed90020 0x30000000",
                "readq 0xfed90008",
                "readl 0xfed9001c"
            ]
        );
    }

    #[test]
    fn bad_answers_are_errors() {
        let (mut client, server) = server(&["FAIL Unknown command\n", "OK\n", "OK 0x100000000\n"]);
        let error = client.write32(0, 1).unwrap_err();
        assert!(error.to_string().contains("FAIL"), "{error}");
        assert!(client.read64(0).is_err());
        assert!(client.read32(0).is_err());
        server.join().unwrap();
        assert!(client.read64(0).is_err());
    }
}
