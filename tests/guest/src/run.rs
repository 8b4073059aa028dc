// SPDX-License-Identifier: GPL-2.0

//! Runs one guest against one simulated Mac, from start to power-off, and collects the outcome.
//! `verdict` judges it.

use crate::assets::Assets;
use crate::channel::{
    self,
    Event, //
};
use crate::device_tree;
use crate::mac::Mac;
use crate::process::Process;
use crate::qemu::{
    self,
    Console,
    Uefi, //
};
use crate::scenario::Case;
use anyhow::{
    anyhow,
    Context,
    Result, //
};
use serde_json::{
    json,
    Value, //
};
use std::{
    fs,
    os::unix::net::UnixListener,
    path::{
        Path,
        PathBuf, //
    },
    process::ExitStatus,
    sync::mpsc::{
        self,
        RecvTimeoutError, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Interval between checks of a guest that sends nothing.
const POLL: Duration = Duration::from_millis(100);

/// Seconds before the timeout at which the guest shows the states of its tasks.
const SHOW_TASKS_BEFORE_TIMEOUT: u64 = 20;

/// The outcome of a guest.
pub struct Outcome {
    /// Messages of its scripts, in order.
    pub events: Vec<Event>,
    /// Its console.
    pub console: String,
    /// QEMU's own messages.
    pub words: String,
    /// QEMU's exit status; `None` after a timeout.
    pub qemu: Option<ExitStatus>,
    /// Addresses that the guest's processors executed at a timeout, for people.
    pub places: Vec<String>,
    /// The simulator's statistics, or the reason for their absence.
    pub stats: Result<Value>,
    /// Duration of the run.
    pub duration: Duration,
    /// Processor time of QEMU and the simulator meanwhile.
    pub processor_time: Duration,
    /// Directory of its files.
    pub run: PathBuf,
}

/// Boots the guest of `case` and waits for its end, calling `on_event` for each message of its
/// scripts.
pub fn run(
    assets: &Assets,
    case: &Case,
    console: Console,
    mut on_event: impl FnMut(&Event),
) -> Result<Outcome> {
    let start = Instant::now();
    let scenario = &case.scenario;
    let system = case.system();
    let run = assets.runs().join(system.to_string()).join(&scenario.name);
    if run.exists() {
        fs::remove_dir_all(&run).with_context(|| run.display().to_string())?;
    }
    fs::create_dir_all(&run).with_context(|| run.display().to_string())?;

    let initrd = run.join("initrd");
    let kernel = match &scenario.installed {
        None => {
            let mut variables = case.variables();
            let show_tasks_after = scenario.timeout.saturating_sub(SHOW_TASKS_BEFORE_TIMEOUT);
            variables.push(("SHOW_TASKS_AFTER".to_owned(), show_tasks_after.to_string()));
            assets.initrd(&initrd, case, &variables)?;
            assets.kernel(&case.system())
        }
        Some(name) => {
            let from = assets.installed(name);
            fs::copy(from.join("initrd"), &initrd)
                .with_context(|| format!("{}: run 'make check-package'", from.display()))?;
            from.join("vmlinuz")
        }
    };

    // A socket's path may have at most 107 bytes.
    let sockets = tempfile::Builder::new().prefix("adp").tempdir()?;
    let disk = scenario.installed.as_ref();
    let disk = disk.map(|name| assets.installed(name).join("root.img"));
    let mac = match case.is_control() {
        true => None,
        false => Some(Mac::start(
            &assets.mac(),
            scenario,
            disk.as_deref(),
            sockets.path(),
            &run,
        )?),
    };
    let mut control = mac.as_ref().map(Mac::control).transpose()?;
    let channel = sockets.path().join("channel.sock");
    let listener = UnixListener::bind(&channel).with_context(|| channel.display().to_string())?;

    let monitor = qemu::Monitor::new(sockets.path(), &run);
    let log = run.join("console.log");
    let uefi = match (&scenario.installed, &scenario.secure_boot) {
        (Some(name), Some(variables)) => Some(installed(&assets.installed(name), variables, &run)?),
        _ if scenario.uefi => {
            let [code, variables] = assets.firmware();
            Some(Uefi {
                code,
                variables: own(&variables, &run)?,
                disks: Vec::new(),
            })
        }
        _ => None,
    };
    let tree = match scenario.domain {
        0 => None,
        _ => Some(device_tree::make(case, &run)?),
    };
    let paths = qemu::Paths {
        kernel: &kernel,
        initrd: &initrd,
        uefi,
        tree: tree.as_deref(),
        sockets: sockets.path(),
        run: &run,
        channel: &channel,
        console: &log,
        log: &run.join("qemu.log"),
    };
    let mut command = qemu::command(case, &paths, console)?;
    let line = format!("{command:?}\n");
    fs::write(run.join("qemu.command"), line)?;
    let mut qemu = Process::spawn(&mut command)?;

    let (sender, receiver) = mpsc::channel();
    let server = thread::spawn(move || {
        channel::serve(&listener, control.as_mut(), &monitor, &sender) //
    });
    let deadline = (console == Console::File).then(|| start + case.timeout());
    let mut processor_time = Duration::ZERO;
    let mut events = Vec::new();
    let mut take = |event: Event| {
        on_event(&event);
        events.push(event);
    };
    let status = loop {
        match receiver.recv_timeout(POLL) {
            Ok(event) => take(event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
        }
        let used = qemu.processor_time() + mac.as_ref().map_or(Duration::ZERO, Mac::processor_time);
        processor_time = processor_time.max(used);
        if let Some(status) = qemu.ended()? {
            break Some(status);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break None;
        }
    };
    let places = match status {
        Some(_) => Vec::new(),
        None => qemu::Monitor::new(sockets.path(), &run)
            .registers()
            .unwrap_or_else(|error| vec![format!("unknown: QEMU's monitor: {error:#}")]),
    };
    drop(qemu);
    if status.is_some_and(|status| status.success()) {
        server
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the channel's thread panicked")))
            .context("channel")?;
    }
    // A QEMU that never connected leaves the thread waiting; the thread ends with this process.
    receiver.try_iter().for_each(take);

    let stats = match mac {
        Some(mac) => mac.finish(),
        None => Ok(json!({ "devices": {} })),
    };
    fs::remove_file(&initrd)?;
    let console = fs::read(&log).unwrap_or_default();
    let words = fs::read(paths.log).unwrap_or_default();
    Ok(Outcome {
        events,
        console: String::from_utf8_lossy(&console).replace('\r', ""),
        words: String::from_utf8_lossy(&words).into_owned(),
        qemu: status,
        places,
        stats,
        duration: start.elapsed(),
        processor_time,
        run,
    })
}

/// Returns the files from which a system with Secure Boot boots, which is installed in `from`.
fn installed(from: &Path, variables: &str, run: &Path) -> Result<Uefi> {
    Ok(Uefi {
        code: from.join("code.fd"),
        variables: own(&from.join(format!("vars-{variables}.fd")), run)?,
        disks: ["esp.img", "root.img"].map(|disk| from.join(disk)).into(),
    })
}

/// Returns a copy of `variables`, which the guest changes.
fn own(variables: &Path, run: &Path) -> Result<PathBuf> {
    let own = run.join("vars.img");
    fs::copy(variables, &own).with_context(|| variables.display().to_string())?;
    Ok(own)
}

/// Removes the disk images of `outcome`, which may be large.
pub fn remove_images(outcome: &Outcome) -> Result<()> {
    for entry in fs::read_dir(&outcome.run)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "img") {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
