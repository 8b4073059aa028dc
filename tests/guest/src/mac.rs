// SPDX-License-Identifier: GPL-2.0

//! A running simulated Mac: its process, its sockets, its statistics. This file knows how to start
//! the simulator and how to send requests, not how it works.

use crate::process::Process;
use crate::scenario::{
    Mode,
    Scenario, //
};
use anyhow::{
    bail,
    Context,
    Result, //
};
use serde_json::Value;
use std::{
    fs::{
        self,
        File, //
    },
    io::{
        BufRead,
        BufReader,
        Write, //
    },
    os::unix::net::UnixStream,
    path::{
        Path,
        PathBuf, //
    },
    process::{
        Command,
        Stdio, //
    },
    time::{
        Duration,
        Instant, //
    },
};

/// Time that the simulator may take to end after QEMU.
const GRACE: Duration = Duration::from_secs(10);

/// Name of the socket of QEMU's qtest, in the directory of sockets.
pub const QTEST: &str = "qtest.sock";

/// A `--device` specification, as far as QEMU's command line depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Name of the device and of its socket.
    pub name: String,
    /// Slot and function, as QEMU writes them ("5" or "5.1").
    pub address: String,
    /// True if the device is a disk, and needs an image.
    pub disk: bool,
    /// True if the device has a companion.
    pub companion: bool,
    /// True if QEMU emulates the device.
    pub emulated: bool,
}

impl Device {
    /// Parses a specification.
    pub fn parse(spec: &str) -> Result<Self> {
        let (kind, fields) = spec.split_once(':').context("no kind")?;
        let field = |name: &str| {
            fields
                .split(',')
                .filter_map(|field| field.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value)
        };
        let bdf = field("bdf").context("no bdf")?;
        let (_, slot) = bdf.split_once(':').context("bdf is not BUS:DEV.FN")?;
        let slot = slot.strip_prefix('0').unwrap_or(slot);
        Ok(Device {
            name: field("name").context("no name")?.to_owned(),
            address: slot.strip_suffix(".0").unwrap_or(slot).to_owned(),
            disk: kind == "nvme",
            companion: field("companion") != Some("no") && field("identity") != Some("yes"),
            emulated: kind == "qemu",
        })
    }
}

/// Parses all specifications of a scenario.
pub fn devices(scenario: &Scenario) -> Result<Vec<Device>> {
    let identity =
        scenario.mode == Mode::Control || scenario.mac.iter().any(|option| option == "--identity");
    scenario
        .devices
        .iter()
        .map(|spec| {
            let mut device =
                Device::parse(spec).with_context(|| format!("{}: '{spec}'", scenario.name))?;
            device.companion &= !identity;
            Ok(device)
        })
        .collect()
}

/// A running simulator.
pub struct Mac {
    process: Process,
    sockets: PathBuf,
    stats: PathBuf,
}

impl Mac {
    /// Starts `program` for `scenario` and waits until its sockets listen. Sockets go to
    /// `sockets`, whose path must be short; images, log and statistics to `run`. The first disk is
    /// a copy of `content`.
    pub fn start(
        program: &Path,
        scenario: &Scenario,
        mut content: Option<&Path>,
        sockets: &Path,
        run: &Path,
    ) -> Result<Self> {
        let stats = run.join("stats.json");
        let mut command = Command::new(program);
        command.arg("--dir").arg(sockets);
        command.arg("--stats").arg(&stats).arg("--once");
        if !scenario.managed.is_empty() {
            command.arg("--qtest").arg(sockets.join(QTEST));
        }
        for (spec, device) in scenario.devices.iter().zip(devices(scenario)?) {
            command.arg("--device");
            if device.disk {
                let image = run.join(format!("{}.img", device.name));
                match content.take() {
                    Some(content) => fs::copy(content, &image).map(|_| ()),
                    None => File::create(&image).and_then(|file| file.set_len(scenario.disk)),
                }
                .with_context(|| image.display().to_string())?;
                command.arg(format!("{spec},file={}", image.display()));
            } else {
                command.arg(spec);
            }
        }
        command.args(&scenario.mac);
        let log = run.join("mac.log");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(File::create(&log).with_context(|| log.display().to_string())?);
        let mut process = Process::spawn(&mut command)?;

        let stdout = process
            .child()
            .stdout
            .take()
            .context("simulator's output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim() != "ready" {
            let log = fs::read_to_string(&log).unwrap_or_default();
            bail!("the simulated Mac did not start: {}", log.trim());
        }
        Ok(Mac {
            process,
            sockets: sockets.to_owned(),
            stats,
        })
    }

    /// Connects to the control socket.
    pub fn control(&self) -> Result<Control> {
        let stream = UnixStream::connect(self.sockets.join("control.sock"))
            .context("the simulator's control socket")?;
        Ok(Control {
            answers: BufReader::new(stream.try_clone()?),
            requests: stream,
        })
    }

    /// Returns the processor time that the simulator has used so far.
    pub fn processor_time(&self) -> Duration {
        self.process.processor_time()
    }

    /// Waits until the simulator ends, as it does after QEMU, and reads the statistics.
    pub fn finish(mut self) -> Result<Value> {
        let status = self
            .process
            .wait_until(Instant::now() + GRACE)?
            .context("the simulated Mac did not end with QEMU")?;
        if !status.success() {
            bail!("the simulated Mac ended with {status}");
        }
        let text = fs::read(&self.stats).with_context(|| self.stats.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| self.stats.display().to_string())
    }
}

/// A connection to a running simulator.
pub struct Control {
    requests: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Control {
    /// Sends one request, a line of JSON, and returns the answer.
    pub fn ask(&mut self, request: &str) -> Result<Value> {
        writeln!(self.requests, "{request}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let answer: Value = serde_json::from_str(&answer)
            .with_context(|| format!("the simulator's answer '{answer}'"))?;
        if let Some(error) = answer.get("error") {
            bail!("the simulator refused '{request}': {error}");
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications() {
        let device = Device::parse("nvme:name=n0,bdf=00:05.0,queues=4").unwrap();
        assert_eq!(device.name, "n0");
        assert_eq!(device.address, "5");
        assert!(device.disk && device.companion);
        let device = Device::parse("engine:name=e,bdf=00:00.1").unwrap();
        assert_eq!(device.address, "0.1");
        let device = Device::parse("engine:name=e,bdf=00:1a.3,companion=no").unwrap();
        assert_eq!(device.address, "1a.3");
        assert!(!device.disk && !device.companion);
        let device = Device::parse("qemu:name=e,bdf=00:05.0").unwrap();
        assert!(!device.disk && device.companion && device.emulated);
        assert!(Device::parse("engine:name=e").is_err());
    }
}
