// SPDX-License-Identifier: GPL-2.0

//! QEMU's command line for a guest: an unmodified machine, an unmodified kernel, and
//! PCI devices that the simulated Mac serves.

use crate::assets::Arch;
use crate::mac::{
    self,
    devices, //
};
use crate::scenario::{
    Boot,
    Bus,
    Case, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use serde_json::{
    json,
    Value, //
};
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
    mem,
    os::unix::net::UnixStream,
    path::{
        Path,
        PathBuf, //
    },
    process::{
        Command,
        Stdio, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Name of the virtio port between the guest's scripts and this program.
const PORT: &str = "org.apple-dma-pci.runner";
/// Slot of the first companion; the slots of managed devices, from the scenario, are below.
const COMPANION_SLOT: u32 = 0x10;
/// Function of the first companion where there is one slot.
const COMPANION_FUNCTION: u32 = 4;
/// Slots of devices that this file adds.
const BRIDGE_SLOT: &str = "2";
const PORT_SLOT: &str = "3";

/// The IOMMU of guests with managed devices that QEMU emulates. The companions, which it lets pass,
/// are accepted behind it only with its caching mode.
const VTD: &str = "intel-iommu,intremap=off,caching-mode=on,aw-bits=48";

/// Identifiers of the pluggable memory module and of its memory.
const MEMORY: &str = "more";
const DIMM: &str = "dimm";

/// Identifiers of the virtio-mem device and of its memory.
const ELASTIC: &str = "elastic";
const ELASTIC_MEMORY: &str = "elastic-memory";

/// Time that the guest may take to change its size.
const RESIZE: Duration = Duration::from_secs(120);

/// Time that QEMU may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// Interval between looks at the guest's size.
const POLL: Duration = Duration::from_millis(100);

/// Files and sockets of one guest.
pub struct Paths<'a> {
    /// Kernel image.
    pub kernel: &'a Path,
    /// Initial root file system.
    pub initrd: &'a Path,
    /// The files of a system that boots with Secure Boot.
    pub uefi: Option<Uefi>,
    /// The device tree, if not QEMU's own.
    pub tree: Option<&'a Path>,
    /// Directory of the simulator's sockets.
    pub sockets: &'a Path,
    /// Directory for the results of the run.
    pub run: &'a Path,
    /// Socket for the guest's scripts, on which this program listens.
    pub channel: &'a Path,
    /// File for the guest's console.
    pub console: &'a Path,
    /// File for QEMU's own messages.
    pub log: &'a Path,
}

/// The files from which a machine with UEFI boots.
pub struct Uefi {
    /// The firmware.
    pub code: PathBuf,
    /// The firmware's variables, which the guest changes.
    pub variables: PathBuf,
    /// Disks, whose changes are discarded.
    pub disks: Vec<PathBuf>,
}

/// Destination of the guest's console.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// A file.
    File,
    /// This process's terminal, and a file as well.
    Terminal,
}

/// The monitor of QEMU.
pub struct Monitor {
    socket: PathBuf,
    run: PathBuf,
}

impl Monitor {
    /// Returns the monitor whose socket is in the directory `sockets`; files are in `run`.
    pub fn new(sockets: &Path, run: &Path) -> Self {
        Self {
            socket: sockets.join("qmp.sock"),
            run: run.to_owned(),
        }
    }

    /// Plugs in the memory module.
    pub fn plug(&self) -> Result<()> {
        let arguments = json!({ "driver": "pc-dimm", "memdev": MEMORY, "id": DIMM });
        self.execute(&json!({ "execute": "device_add", "arguments": arguments }))
            .map(drop)
    }

    /// Requests that the guest releases the memory module, which is removed then.
    pub fn unplug(&self) -> Result<()> {
        self.execute(&json!({ "execute": "device_del", "arguments": { "id": DIMM } }))
            .map(drop)
    }

    /// Sets the size of the guest that the balloon leaves, in bytes. Returns the guest's size.
    pub fn balloon(&self, bytes: u64) -> Result<u64> {
        self.execute(&json!({ "execute": "balloon", "arguments": { "value": bytes } }))?;
        settle(bytes, || {
            let answer = self.execute(&json!({ "execute": "query-balloon" }))?;
            answer["actual"].as_u64().context("no size")
        })
    }

    /// Sets the size of the memory that virtio-mem gives the guest, in bytes. Returns the size.
    pub fn resize(&self, bytes: u64) -> Result<u64> {
        let path = format!("/machine/peripheral/{ELASTIC}");
        let mut arguments = json!({ "path": path, "property": "requested-size", "value": bytes });
        self.execute(&json!({ "execute": "qom-set", "arguments": arguments }))?;
        arguments = json!({ "path": path, "property": "size" });
        let query = json!({ "execute": "qom-get", "arguments": arguments });
        settle(bytes, || self.execute(&query)?.as_u64().context("no size"))
    }

    /// Resets the machine at once, without the guest's knowledge.
    pub fn reset(&self) -> Result<()> {
        self.execute(&json!({ "execute": "system_reset" }))
            .map(drop)
    }

    /// Stores the registers of the guest's processors, twice, a second apart, in the run's file
    /// `registers.log`. Returns a line for each time: the address that each processor executes.
    pub fn registers(&self) -> Result<Vec<String>> {
        let arguments = json!({ "command-line": "info registers -a" });
        let command = json!({ "execute": "human-monitor-command", "arguments": arguments });
        let mut all = String::new();
        let mut lines = Vec::new();
        for pause in [Duration::from_secs(1), Duration::ZERO] {
            let answer = self.execute(&command)?;
            let text = answer.as_str().context("no text")?;
            lines.push(places(text));
            all.push_str(text);
            thread::sleep(pause);
        }
        fs::write(self.run.join("registers.log"), all)?;
        Ok(lines)
    }

    /// Executes a command, in JSON with `{run}` for the directory of the run; returns the value.
    pub fn request(&self, command: &str) -> Result<Value> {
        let run = self.run.display().to_string();
        let command = serde_json::from_str(&command.replace("{run}", &run)).context("not JSON")?;
        self.execute(&command)
    }

    /// Returns the SHA-256 of a file of the run.
    pub fn digest(&self, file: &str) -> Result<String> {
        let output = Command::new("sha256sum")
            .arg("--")
            .arg(self.run.join(file))
            .output()
            .context("sha256sum")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let digest = text.split_whitespace().next();
        Ok(digest.with_context(|| format!("no {file}"))?.to_owned())
    }

    fn execute(&self, command: &Value) -> Result<Value> {
        let mut stream = UnixStream::connect(&self.socket).context("no monitor")?;
        stream.set_read_timeout(Some(ANSWER))?;
        let answers = BufReader::new(stream.try_clone()?);
        let mut answers = answers.lines();
        answers.next().context("no greeting")??;
        let negotiate = json!({ "execute": "qmp_capabilities" });
        let mut value = Value::Null;
        for request in [&negotiate, command] {
            writeln!(stream, "{request}")?;
            loop {
                let answer: Value = serde_json::from_str(&answers.next().context("no answer")??)?;
                if let Some(answer) = answer.get("return") {
                    value = answer.clone();
                    break;
                }
                // Other lines are events.
                ensure!(answer.get("error").is_none(), "{answer}");
            }
        }
        Ok(value)
    }
}

/// Returns the address that each processor executes, of QEMU's `registers`.
fn places(registers: &str) -> String {
    let words = registers.split_whitespace();
    let words = words.filter(|word| {
        ["CPU#", "PC=", "RIP=", "HLT=1"]
            .iter()
            .any(|p| word.starts_with(p))
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Expands the placeholders in an argument of a scenario: `{run}` is the directory of the run, and
/// `{image:NAME}` a disk image there, `NAME.img`, which is made with `size` bytes.
fn expand(argument: &str, run: &Path, size: u64) -> Result<String> {
    const IMAGE: &str = "{image:";
    let mut text = argument.replace("{run}", &run.display().to_string());
    while let Some(start) = text.find(IMAGE) {
        let rest = &text[start + IMAGE.len()..];
        let (name, _) = rest.split_once('}').context("'}' is missing")?;
        let image = run.join(format!("{name}.img"));
        if !image.exists() {
            File::create(&image)
                .and_then(|file| file.set_len(size))
                .with_context(|| image.display().to_string())?;
        }
        let end = start + IMAGE.len() + name.len() + 1;
        text.replace_range(start..end, &image.display().to_string());
    }
    Ok(text)
}

/// Waits until `size` returns `wanted`, for a while. Returns the last size.
fn settle(wanted: u64, size: impl Fn() -> Result<u64>) -> Result<u64> {
    let deadline = Instant::now() + RESIZE;
    loop {
        let now = size()?;
        if now == wanted || Instant::now() >= deadline {
            return Ok(now);
        }
        thread::sleep(POLL);
    }
}

/// Makes the directory of a disk with the kernel, and with a script that the firmware's shell runs,
/// which starts the kernel with the command line `line`.
fn boot_disk(paths: &Paths<'_>, line: &str) -> Result<String> {
    let directory = paths.sockets.join("boot");
    fs::create_dir(&directory)?;
    fs::copy(paths.kernel, directory.join("vmlinuz.efi"))?;
    fs::copy(paths.initrd, directory.join("initrd"))?;
    let script = format!("fs0:\r\nvmlinuz.efi initrd=\\initrd {line}\r\n");
    fs::write(directory.join("startup.nsh"), script)?;
    Ok(directory.display().to_string())
}

/// Returns the command that runs the guest of `case`.
pub fn command(case: &Case, paths: &Paths<'_>, console: Console) -> Result<Command> {
    let scenario = &case.scenario;
    let (program, machine, cpu, tty, firmware) = match case.arch {
        // Pointer authentication, in every function of the kernel, takes a third of a guest's time
        // where it is emulated. Guests of UEFI have it.
        Arch::Arm64 => (
            "qemu-system-aarch64",
            "virt",
            if paths.uefi.is_some() {
                "max"
            } else {
                "max,pauth=off"
            },
            "ttyAMA0",
            None,
        ),
        // While Linux identifies the first CPU, the CPU's feature of page tables with five levels
        // is cleared for a moment: KASAN reports an interrupt at that moment.
        Arch::Amd64 => (
            "qemu-system-x86_64",
            "q35",
            "max,la57=off",
            "ttyS0",
            Some(&scenario.firmware),
        ),
    };
    let mut command = Command::new(program);
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    if !scenario.reboot {
        command.arg("-no-reboot");
    }
    let more = match (&paths.uefi, case.arch) {
        (Some(_), Arch::Amd64) => ",smm=on",
        (Some(_), Arch::Arm64) => ",acpi=on",
        (None, _) => "",
    };
    command.args(["-machine", &format!("{machine},memory-backend=mem{more}")]);
    if case.has_vtd() {
        // It must come before the devices behind it.
        command.args(["-device", VTD]);
        if !case.is_control() {
            let socket = paths.sockets.join(mac::QTEST);
            command.arg("-qtest");
            command.arg(format!("unix:{},server=on,wait=off", socket.display()));
            command.args(["-qtest-log", "none"]);
        }
    }
    // QEMU drops its translation of an instruction before the new one is written, so that another
    // processor may translate the old one once more and keep that translation. A kernel for amd64
    // that patches its code crashes or hangs then, as it writes breakpoints for the time of the
    // change.
    let accel = if case.takes_turns() {
        "tcg,thread=single"
    } else {
        "tcg"
    };
    command.args(["-cpu", cpu, "-accel", accel]);
    command.args(["-smp", &scenario.cpus.to_string()]);
    if scenario.icount {
        command.args(["-icount", "shift=0"]);
    }
    let kib = u64::from(scenario.memory) << 10;
    let kib = kib.saturating_add(u64::from(scenario.tail));
    let memory = format!("{kib}K");
    let mut sizes = memory.clone();
    // The simulator accesses guest memory through these descriptors.
    let mut backends = vec![("mem", memory)];
    let mut most = kib;
    for (id, mib) in [
        (MEMORY, scenario.hotplug),
        (ELASTIC_MEMORY, scenario.elastic),
    ] {
        if mib != 0 {
            most = most.saturating_add(u64::from(mib) << 10);
            backends.push((id, format!("{mib}M")));
        }
    }
    if most != kib {
        sizes = format!("{sizes},slots=1,maxmem={most}K");
    }
    let monitor = Monitor::new(paths.sockets, paths.run);
    command.arg("-qmp");
    command.arg(format!(
        "unix:{},server=on,wait=off",
        monitor.socket.display()
    ));
    command.args(["-m", &sizes]);
    for (id, size) in backends {
        command.arg("-object");
        command.arg(format!("memory-backend-memfd,id={id},size={size},share=on"));
    }
    if scenario.elastic != 0 {
        command.arg("-device").arg(format!(
            "virtio-mem-pci,id={ELASTIC},memdev={ELASTIC_MEMORY},requested-size=0"
        ));
    }
    if scenario.balloon {
        command.args(["-device", "virtio-balloon-pci,free-page-reporting=on"]);
    }
    match (&paths.uefi, firmware) {
        (Some(uefi), _) => {
            if case.arch == Arch::Amd64 {
                // Only the firmware may access the variables.
                command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
            }
            let code = format!("readonly=on,file={}", uefi.code.display());
            let variables = format!("file={}", uefi.variables.display());
            for (unit, file) in (0..).zip([code, variables]) {
                command.arg("-drive");
                command.arg(format!("if=pflash,unit={unit},format=raw,{file}"));
            }
            for disk in &uefi.disks {
                let disk = disk.display();
                command.arg("-drive");
                command.arg(format!("if=virtio,format=raw,snapshot=on,file={disk}"));
            }
        }
        (None, Some(firmware)) => {
            command.args(["-bios", firmware]);
        }
        (None, None) => {}
    }
    if scenario.secure_boot.is_none() {
        if let Some(tree) = paths.tree {
            command.arg("-dtb").arg(tree);
        }
        // On a busy machine ticks of the timer are late, and Linux would switch to another
        // timer.
        let timer = match case.arch {
            Arch::Arm64 => "",
            Arch::Amd64 => "no_timer_check",
        };
        let line = format!(
            "console={tty} panic=-1 oops=panic loglevel=5 {timer} {}",
            case.append()
        );
        if scenario.boot == Boot::Kernel {
            command.arg("-kernel").arg(paths.kernel);
            command.arg("-initrd").arg(paths.initrd);
            command.arg("-append").arg(line);
        } else {
            let disk = boot_disk(paths, &line)?;
            let order = match scenario.boot {
                Boot::FirstDisk => ",bootindex=0",
                _ => "",
            };
            command.arg("-drive").arg(format!(
                "if=none,id=boot,format=raw,readonly=on,file=fat:{disk}"
            ));
            command
                .arg("-device")
                .arg(format!("virtio-blk-pci,drive=boot{order}"));
        }
    }

    let log = paths.console.display();
    command.arg("-chardev");
    command.arg(match console {
        Console::File => format!("file,id=console,path={log}"),
        Console::Terminal => format!("stdio,id=console,mux=on,signal=off,logfile={log}"),
    });
    command.args(["-serial", "chardev:console"]);
    if console == Console::Terminal {
        command.args(["-mon", "console"]);
    }
    command.arg("-chardev");
    command.arg(format!(
        "socket,id=channel,path={}",
        paths.channel.display()
    ));
    command.arg("-device");
    command.arg(format!("virtio-serial-pci,addr={PORT_SLOT}"));
    command.arg("-device");
    command.arg(format!("virtserialport,chardev=channel,name={PORT}"));

    if scenario.kexec {
        for (serial, file) in [("kernel", paths.kernel), ("initrd", paths.initrd)] {
            let file = file.display();
            command.arg("-drive");
            command.arg(format!(
                "if=none,id={serial},format=raw,readonly=on,file={file}"
            ));
            command.arg("-device");
            command.arg(format!("virtio-blk-pci,drive={serial},serial={serial}"));
        }
    }
    let bus = match scenario.bus {
        Bus::First => None,
        Bus::Bridge => Some(format!("pci-bridge,chassis_nr=1,addr={BRIDGE_SLOT}")),
        Bus::Port => Some(format!("pcie-root-port,chassis=1,addr={BRIDGE_SLOT}")),
    };
    if let Some(bus) = &bus {
        command.arg("-device").arg(format!("{bus},id=bus"));
    }
    let argument = |argument: &str| {
        expand(argument, paths.run, scenario.disk).with_context(|| format!("'{argument}'"))
    };
    for further in &scenario.qemu {
        command.arg(argument(further)?);
    }
    // A doorbell that waits would hold QEMU's lock, and the simulator waits for QEMU's VT-d.
    let posted = scenario.posted || case.has_vtd();
    let plug = |command: &mut Command, name: &str, address: &str, on_first: bool| {
        let mut device = json!({
            "driver": "vfio-user-pci",
            "socket": { "type": "unix", "path": paths.sockets.join(format!("{name}.sock")) },
            "x-no-posted-writes": !posted,
            "addr": address,
            "multifunction": true,
        });
        if bus.is_some() && !on_first {
            device["bus"] = "bus".into();
        }
        command.arg("-device").arg(device.to_string());
    };
    for (index, device) in (0..).zip(devices(scenario)?) {
        match scenario.managed.get(&device.name) {
            Some(options) => {
                let on = if bus.is_some() { ",bus=bus" } else { "" };
                let mut place = format!(",addr={},multifunction=on{on}", device.address);
                for option in options {
                    let option = argument(option)?;
                    command.arg("-device").arg(option + &mem::take(&mut place));
                }
            }
            None => plug(&mut command, &device.name, &device.address, false),
        }
        if device.companion {
            let apart = scenario.apart.contains(&device.name);
            let address = match scenario.bus {
                Bus::Port if !apart => format!("0.{}", COMPANION_FUNCTION + index),
                _ => format!("{:x}", COMPANION_SLOT + index),
            };
            plug(
                &mut command,
                &format!("{}-companion", device.name),
                &address,
                apart,
            );
        }
    }

    let log = File::create(paths.log).with_context(|| paths.log.display().to_string())?;
    if console == Console::File {
        command.stdin(Stdio::null()).stdout(log.try_clone()?);
    }
    command.stderr(log);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().display();
        let text = expand("a={image:d0},b={run}/x,c={image:d0}", run.path(), 4096).unwrap();
        assert_eq!(text, format!("a={path}/d0.img,b={path}/x,c={path}/d0.img"));
        let image = std::fs::metadata(run.path().join("d0.img")).unwrap();
        assert_eq!(image.len(), 4096);
        assert!(expand("{image:d0", run.path(), 1).is_err());
    }

    #[test]
    fn registers_show_where_processors_are() {
        let arm = "\nCPU#0\n PC=ffff800080b3c0d4 X00=0000000000000000\nPSTATE=800003c5 N--- EL1h\n";
        let x86 = "\nCPU#1\nRAX=0 RBX=1\nRIP=ffffffff81000000 RFL=00000246 CPL=0 HLT=1\n";
        assert_eq!(
            places(&format!("{arm}{x86}")),
            "CPU#0 PC=ffff800080b3c0d4 CPU#1 RIP=ffffffff81000000 HLT=1"
        );
    }
}
