// SPDX-License-Identifier: GPL-2.0

//! Systems for tests: a healthy guest in a directory, to be broken in one respect at a time.

use crate::doctor::finding::{
    Finding,
    Severity, //
};
use crate::doctor::guest::Guest;
use crate::doctor::system::System;
use flate2::{
    write::GzEncoder,
    Compression, //
};
use object::{
    write::Object,
    Architecture,
    BinaryFormat,
    Endianness,
    SectionKind, //
};
use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::{
        self,
        File, //
    },
    io::Write,
    os::unix::fs::symlink,
    path::{
        Path,
        PathBuf, //
    },
    time::{
        Duration,
        SystemTime, //
    },
};
use tempfile::TempDir;

/// The guest's kernel.
pub const RELEASE: &str = "7.2.1+deb13-amd64";

/// Message of a module without problems.
pub const MANAGED: &str = "manages 0000:00:05.0: lazy mode, u32 dialect, addresses like \
    0x800100000000, at most 1280 MiB in 61440 mappings";

const COUNTERS: &str = "\
    maps unmaps hits misses shared misuses copies copies_bytes_in copies_bytes_out copies_waited \
    copies_full windows_created windows_returned windows_aged windows_reclaimed windows_lost \
    windows_recovered windows_stale large congruent refusals_invalid refusals_mmio \
    refusals_max_bytes refusals_max_entries refusals_unreachable refusals_host_refused \
    refusals_host_rejected refusals_host_silent refusals_no_memory refusals_no_key \
    refusals_closed refusals_misaligned refusals host_errors_refused host_errors_silent \
    host_errors_status host_errors_id host_errors_length host_errors_offset host_errors_range \
    host_errors_overlap host_errors";

/// Returns a module's file as far as it is read: version, and kernel.
pub fn module_file(version: &str, release: &str) -> Vec<u8> {
    let info = format!(
        "version={version}\0license=GPL\0srcversion=1234\0vermagic={release} SMP preempt\0"
    );
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let kind = SectionKind::ReadOnlyData;
    let section = object.add_section(Vec::new(), b".modinfo".to_vec(), kind);
    object.append_section_data(section, info.as_bytes(), 1);
    object.write().unwrap()
}

/// A guest that a test may break.
pub struct Fixture {
    directory: TempDir,
    programs: BTreeMap<String, String>,
    age: Cell<u64>,
}

impl Fixture {
    /// Returns a healthy guest: an NVMe disk is managed, and DKMS installed the module.
    pub fn healthy() -> Self {
        let mut this = Fixture {
            directory: TempDir::new().unwrap(),
            programs: BTreeMap::new(),
            age: Cell::new(0),
        };
        let modules = format!("lib/modules/{RELEASE}");
        for (path, text) in [
            ("proc/sys/kernel/osrelease", format!("{RELEASE}\n")),
            ("proc/cmdline", "root=/dev/sda1 ro quiet\n".to_owned()),
            (
                "proc/self/mountinfo",
                "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n".to_owned(),
            ),
            (
                &format!("boot/config-{RELEASE}"),
                "# Linux\nCONFIG_RUST=y\nCONFIG_MODULES=y\nCONFIG_PCI=y\nCONFIG_X86_64=y\n\
                 CONFIG_ARCH_HAS_DMA_OPS=y\nCONFIG_DEBUG_FS=y\n"
                    .to_owned(),
            ),
            (
                &format!("{modules}/modules.dep"),
                "kernel/x.ko.xz:\nupdates/dkms/apple_dma_pci.ko: kernel/x.ko.xz\n".to_owned(),
            ),
            (
                &format!("{modules}/modules.alias"),
                "# Aliases\nalias pci:v*d*sv*sd*bc01sc08i02* nvme\nalias usb:v* x\n".to_owned(),
            ),
            (
                &format!("{modules}/modules.builtin"),
                "kernel/fs/ext4.ko\n".to_owned(),
            ),
            (
                "lib/modprobe.d/apple-dma-pci.conf",
                "# First that.\nsoftdep nvme pre: apple_dma_pci\n".to_owned(),
            ),
            ("sys/module/apple_dma_pci/version", "0.1.0\n".to_owned()),
            ("sys/module/apple_dma_pci/srcversion", "1234\n".to_owned()),
            ("sys/module/nvme/initstate", "live\n".to_owned()),
            ("sys/module/module/parameters/sig_enforce", "N\n".to_owned()),
            (
                "sys/kernel/security/lockdown",
                "[none] integrity confidentiality\n".to_owned(),
            ),
            (&this.companion("vendor"), "0x1b36\n".to_owned()),
            (&this.companion("device"), "0x0015\n".to_owned()),
            (
                &this.companion("apple_dma_pci/managed"),
                "0000:00:05.0\n".to_owned(),
            ),
            (&this.companion("apple_dma_pci/mode"), "lazy\n".to_owned()),
            (
                &this.companion("apple_dma_pci/max_bytes"),
                "1342177280\n".to_owned(),
            ),
            (
                &this.companion("apple_dma_pci/max_entries"),
                "61440\n".to_owned(),
            ),
            (&this.managed("vendor"), "0x144d\n".to_owned()),
            (&this.managed("device"), "0xa808\n".to_owned()),
            (
                &this.managed("modalias"),
                "pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02\n".to_owned(),
            ),
            ("sys/bus/pci/drivers/nvme/bind", String::new()),
            (
                "sys/kernel/debug/apple_dma_pci/0000:00:10.0/status",
                "managed 0000:00:05.0\nhost ready\n".to_owned(),
            ),
            (
                "sys/kernel/debug/apple_dma_pci/0000:00:10.0/counters",
                COUNTERS.replace(' ', " 0\n") + " 0\n",
            ),
            (
                &format!("var/lib/dkms/apple-dma-pci/0.1.0/{RELEASE}/x86_64/log/make.log"),
                String::new(),
            ),
        ] {
            this.write(path, &text);
        }
        this.write_bytes(
            &format!("{modules}/updates/dkms/apple_dma_pci.ko"),
            &module_file("0.1.0", RELEASE),
        );
        this.write(&format!("boot/initrd.img-{RELEASE}"), "");
        this.link(&this.companion("driver"), "../../drivers/apple_dma_pci");
        this.link(&this.managed("driver"), "../../drivers/nvme");
        this.link("sys/bus/pci/drivers/nvme/module", "../../../../module/nvme");
        this.link(
            "sys/dev/block/8:1",
            "../../devices/pci0000:00/0000:00:07.0/virtio4/block/vda/vda1",
        );
        this.link(
            "sys/dev/block/259:2",
            "../../devices/pci0000:00/0000:00:05.0/nvme/nvme0/nvme0n1/nvme0n1p2",
        );
        this.link(
            &format!("var/lib/dkms/apple-dma-pci/kernel-{RELEASE}-x86_64"),
            &format!("0.1.0/{RELEASE}/x86_64"),
        );
        this.prints(
            &format!("lsinitramfs /boot/initrd.img-{RELEASE}"),
            &format!("usr/lib/modules/{RELEASE}/updates/dkms/apple_dma_pci.ko\n"),
        );
        this.prints(
            "dmesg",
            &format!("[    1.0] apple_dma_pci 0000:00:10.0: {MANAGED}\n"),
        );
        this
    }

    /// Returns the directory of the guest.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the guest in its current state, with its programs.
    pub fn guest(&self) -> Guest {
        let system = System::canned(self.root(), self.programs.clone()).unwrap();
        Guest::new(system).unwrap()
    }

    /// Returns the guest as the files of a system that does not run.
    pub fn guest_at_rest(&self) -> Guest {
        Guest::new(System::open(self.root()).unwrap()).unwrap()
    }

    /// Makes a program print `text`; without a text the program fails.
    pub fn prints(&mut self, command: &str, text: &str) {
        self.programs.insert(command.to_owned(), text.to_owned());
    }

    /// Returns a file of the companion in sysfs.
    pub fn companion(&self, file: &str) -> String {
        format!("sys/bus/pci/devices/0000:00:10.0/{file}")
    }

    /// Returns a file of the managed device in sysfs.
    pub fn managed(&self, file: &str) -> String {
        format!("sys/bus/pci/devices/0000:00:05.0/{file}")
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub fn write(&self, path: &str, text: &str) {
        self.write_bytes(path, text.as_bytes());
    }

    pub fn write_bytes(&self, path: &str, bytes: &[u8]) {
        fs::write(self.path(path), bytes).unwrap();
    }

    pub fn write_packed(&self, path: &str, text: &str) {
        let file = File::create(self.path(path)).unwrap();
        let mut encoder = GzEncoder::new(file, Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    pub fn read_bytes(&self, path: &str) -> Vec<u8> {
        fs::read(self.path(path)).unwrap()
    }

    pub fn edit(&self, path: &str, edit: impl FnOnce(String) -> String) {
        self.write(path, &edit(self.read(path)));
    }

    pub fn link(&self, path: &str, target: &str) {
        symlink(target, self.path(path)).unwrap();
    }

    /// Removes a file, a link, or a directory with its contents.
    pub fn remove(&self, path: &str) {
        let path = self.path(path);
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    /// Makes a file newer than all others.
    pub fn make_newer(&self, path: &str) {
        self.age.set(self.age.get() + 100);
        let time = SystemTime::now() + Duration::from_secs(self.age.get());
        let file = File::options().append(true).open(self.path(path)).unwrap();
        file.set_modified(time).unwrap();
    }

    /// Unloads the module.
    pub fn unload(&self) {
        self.remove("sys/module/apple_dma_pci");
    }

    /// Checks that no finding has advice.
    #[track_caller]
    pub fn is_ok(findings: &[Finding]) {
        assert!(!findings.is_empty());
        for finding in findings {
            assert_eq!(finding.severity, Severity::Ok, "{findings:#?}");
            assert_eq!(finding.advice, None);
        }
    }

    #[track_caller]
    pub fn is_problem(findings: &[Finding], text: &str) {
        Self::is(findings, Severity::Problem, text);
    }

    #[track_caller]
    pub fn is_warning(findings: &[Finding], text: &str) {
        Self::is(findings, Severity::Warning, text);
    }

    #[track_caller]
    pub fn is_unknown(findings: &[Finding], text: &str) {
        Self::is(findings, Severity::Unknown, text);
    }

    /// Checks that one of the findings has the severity, the text and advice, and that none is
    /// worse.
    #[track_caller]
    fn is(findings: &[Finding], severity: Severity, text: &str) {
        let finding = findings.iter().find(|finding| finding.found.contains(text));
        let Some(finding) = finding else {
            panic!("no finding says '{text}': {findings:#?}");
        };
        assert_eq!(finding.severity, severity, "{findings:#?}");
        assert!(finding
            .advice
            .as_ref()
            .is_some_and(|advice| !advice.is_empty()));
        let worst = findings.iter().map(|finding| finding.severity).max();
        assert_eq!(worst, Some(severity), "{findings:#?}");
    }
}
