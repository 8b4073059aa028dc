// SPDX-License-Identifier: GPL-2.0

//! The command line: the texts of `--help`, and device specifications.

use crate::addr::Iova;
use crate::companion::{
    self,
    Dialect, //
};
use crate::cost::{
    self,
    Costs,
    Preset, //
};
use crate::dart;
use crate::engine;
use crate::hostile::Hostile;
use crate::iova::Placement;
use crate::nvme;
use clap::{
    Args,
    Parser, //
};
use std::path::PathBuf;

/// A simulated Mac: PCI devices behind a DART, for an unmodified QEMU
///
/// Serves each device of --device, and the apple-dma-pci companion that goes with it,
/// as vfio-user devices on sockets in --dir: NAME.sock and NAME-companion.sock.
/// Prints "ready" when all sockets listen. Commands are taken on control.sock.
#[derive(Clone, Debug, Parser)]
#[command(name = "apple-dma-mac", version)]
pub struct Cli {
    /// Directory for the sockets. It must exist; stale sockets in it are replaced
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,

    /// A device to serve; may be given several times. SPEC is one of
    ///
    ///   nvme:name=NAME,bdf=BUS:DEV.FN,file=IMAGE[,lba=512|4096][,mdts=BYTES][,queues=N]
    ///   engine:name=NAME,bdf=BUS:DEV.FN[,channels=N]
    ///   endpoint:name=NAME,bdf=BUS:DEV.FN
    ///   qemu:name=NAME,bdf=BUS:DEV.FN
    ///
    /// The last is for a device that QEMU itself emulates, behind VT-d: only the companion
    /// is served, and --qtest and --once must be given.
    ///
    /// NAME is made of letters, digits, '-' and '_'. Common to all: companion=no for a
    /// device without one, identity=yes for one with all of RAM mapped 1:1, and any of the
    /// options under "Every device" without its
    /// dashes (dialect=u64, max-bytes=64M, ...) to override it for this device. Devices with the
    /// same dart=NAME are behind one DART, and share its aperture and its limits.
    #[arg(
        long = "device",
        value_name = "SPEC",
        required = true,
        verbatim_doc_comment
    )]
    pub devices: Vec<Spec>,

    /// QEMU's qtest socket, for devices of QEMU; it may be created later
    #[arg(long, value_name = "SOCKET")]
    pub qtest: Option<PathBuf>,

    /// Write the statistics to this file on exit
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,

    /// Exit when all connections are closed after there were some
    #[arg(long)]
    pub once: bool,

    /// Map all of guest RAM 1:1 and serve no companions
    #[arg(long, conflicts_with = "no_dext")]
    pub identity: bool,

    /// Reply with the GPA as IOVA, as QEMU without a dext does. Devices reach all of RAM
    #[arg(long)]
    pub no_dext: bool,

    /// Log to standard error: once for requests, twice for every access
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Defaults for all devices.
    #[command(flatten)]
    pub options: Options,
}

/// Options that a device specification may override.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Every device")]
pub struct Options {
    /// Layout of map requests and responses
    #[arg(long, value_enum, default_value = "u32")]
    pub dialect: Dialect,

    /// Placement of mappings in the aperture: low, high or random[:SEED]
    #[arg(long, default_value = "low")]
    pub placement: Placement,

    /// First IOVA of the aperture, a multiple of 16 KiB
    #[arg(long, value_name = "ADDR", value_parser = number, default_value = "0x800100000000")]
    pub iova_base: u64,

    /// Bytes of the aperture
    #[arg(long, value_name = "BYTES", value_parser = number, default_value = "16G")]
    pub iova_size: u64,

    /// Maximum of mapped bytes, in whole 16 KiB granules; a request beyond it is refused
    #[arg(long, value_name = "BYTES", value_parser = number,
          default_value_t = dart::DEFAULT_MAX_BYTES)]
    pub max_bytes: u64,

    /// Maximum number of mappings; a request beyond it is refused
    #[arg(long, value_name = "N", value_parser = number,
          default_value_t = dart::DEFAULT_MAX_ENTRIES)]
    pub max_entries: u64,

    /// Mapped bytes beyond which the Mac panics, if --max-bytes is not less
    #[arg(long, value_name = "BYTES", value_parser = number,
          default_value_t = dart::DEFAULT_MAX_BYTES)]
    pub panic_bytes: u64,

    /// Number of mappings beyond which the Mac panics, if --max-entries is not less
    #[arg(long, value_name = "N", value_parser = number,
          default_value_t = dart::DEFAULT_MAX_ENTRIES)]
    pub panic_entries: u64,

    /// Longest range that the DART gives as one segment; longer ones are refused
    #[arg(long, value_name = "BYTES", value_parser = number)]
    pub max_segment: Option<u64>,

    /// Refuse N of a thousand ranges of more than one granule; always the same ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000),
          default_value_t = 0)]
    pub fragment: u32,

    /// Seed of the choice of --fragment
    #[arg(long, value_name = "SEED", value_parser = number, default_value_t = 0)]
    pub fragment_seed: u64,

    /// Longest range that the host does not split; of longer ones it maps the first part
    #[arg(long, value_name = "BYTES", value_parser = number,
          default_value_t = dart::DEFAULT_SPLIT_ABOVE)]
    pub split_above: u64,

    /// Maximum number of entries in a batch
    #[arg(long, value_name = "N", default_value_t = companion::DEFAULT_MAX_BATCH,
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub max_batch: u32,

    /// Time that the host takes, unless the following options say otherwise: fast or field
    #[arg(long, value_enum, default_value = "fast")]
    pub costs: Preset,

    /// Microseconds that every doorbell takes
    #[arg(long, value_name = "US")]
    pub latency_us: Option<u64>,

    /// Microseconds that every MAP entry takes
    #[arg(long, value_name = "US")]
    pub map_us: Option<u64>,

    /// Microseconds that every UNMAP entry takes whose key is live
    #[arg(long, value_name = "US")]
    pub unmap_us: Option<u64>,

    /// Microseconds that every UNMAP entry takes whose key is not live
    #[arg(long, value_name = "US")]
    pub unmap_unknown_us: Option<u64>,

    /// Percent by which these times are spread
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100),
          default_value_t = 0)]
    pub cost_spread: u32,

    /// Seed of the spread
    #[arg(long, value_name = "SEED", value_parser = number, default_value_t = 0)]
    pub cost_seed: u64,

    /// Factor by which the times that pass differ from these; statistics report both
    #[arg(long, value_name = "FACTOR", value_parser = factor, default_value_t = 1.0)]
    pub cost_factor: f64,

    /// Microseconds that every command of a device takes before its data moves
    #[arg(long, value_name = "US", default_value_t = 0)]
    pub device_delay_us: u64,

    /// Refuse to unmap if the size is not the mapping's
    #[arg(long)]
    pub check_unmap_size: bool,

    /// Falsify replies in this way
    #[arg(long, value_enum, default_value = "none")]
    pub hostile: Hostile,

    /// Value of VERSION, in place of the truth
    #[arg(long, value_name = "V", value_parser = number32)]
    pub reg_version: Option<u32>,

    /// Value of MAX_ENTRIES, in place of the truth
    #[arg(long, value_name = "N", value_parser = number32)]
    pub reg_max_entries: Option<u32>,

    /// Value of MANAGED_BDF, in place of the truth
    #[arg(long, value_name = "X", value_parser = number32)]
    pub reg_bdf: Option<u32>,
}

/// The kind of device of a specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An NVMe controller with one namespace.
    Nvme {
        /// Image of the namespace.
        file: PathBuf,
        /// Geometry and limits.
        params: nvme::Params,
    },
    /// A DMA engine.
    Engine {
        /// Number of channels.
        channels: u16,
    },
    /// An endpoint for the kernel's `pci_endpoint_test`.
    Endpoint,
    /// A device that QEMU emulates.
    Qemu,
}

/// One `--device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The kind of device.
    pub kind: Kind,
    /// The device's name.
    pub name: String,
    /// Location in the guest: `bus << 8 | device << 3 | function`.
    pub bdf: u16,
    /// True if the device has a companion.
    pub companion: bool,
    /// True if all of guest RAM is mapped for the device 1:1, without a companion.
    pub identity: bool,
    /// Name of the DART, if other devices are behind it too.
    pub dart: Option<String>,
    /// Options that differ from the defaults, as key and value.
    overrides: Vec<(String, String)>,
}

/// Parses a number: decimal, hexadecimal after `0x`, with K, M, G or T for powers of 1024.
pub fn number(s: &str) -> Result<u64, String> {
    let bad = || format!("'{s}' is not a number");
    let (digits, shift) = match s.char_indices().last() {
        Some((at, 'K' | 'k')) => (&s[..at], 10),
        Some((at, 'M' | 'm')) => (&s[..at], 20),
        Some((at, 'G' | 'g')) => (&s[..at], 30),
        Some((at, 'T' | 't')) => (&s[..at], 40),
        _ => (s, 0),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    }
    .map_err(|_| bad())?;
    value
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("'{s}' is too large"))
}

fn number32(s: &str) -> Result<u32, String> {
    number(s)?
        .try_into()
        .map_err(|_| format!("'{s}' does not fit in 32 bits"))
}

fn small(key: &str, value: &str, least: u64, most: u64) -> Result<u64, String> {
    match number(value)? {
        n if (least..=most).contains(&n) => Ok(n),
        n => Err(format!("{key}={n} is not in {least} to {most}")),
    }
}

fn factor(s: &str) -> Result<f64, String> {
    let factor = s.parse().map_err(|_| format!("'{s}' is not a number"))?;
    cost::checked_factor(factor)
}

fn bdf(s: &str) -> Result<u16, String> {
    let parse = || {
        let (bus, rest) = s.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let hex = |s, most| {
            u16::from_str_radix(s, 16)
                .ok()
                .filter(|value| *value <= most)
        };
        Some((hex(bus, 0xff)? << 8) | (hex(device, 0x1f)? << 3) | hex(function, 7)?)
    };
    parse().ok_or_else(|| format!("'{s}' is no address like 00:05.0"))
}

fn flag(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "yes" | "true" | "1" => Ok(true),
        "no" | "false" | "0" => Ok(false),
        _ => Err(format!("{key}={value}: use yes or no")),
    }
}

fn choice<T: clap::ValueEnum>(key: &str, value: &str) -> Result<T, String> {
    T::from_str(value, false).map_err(|_| format!("{key}={value} is no choice"))
}

impl std::str::FromStr for Spec {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (kind, rest) = s
            .split_once(':')
            .ok_or("a device begins with nvme:, engine:, endpoint: or qemu:")?;
        let mut name = None;
        let mut at = None;
        let mut file = None;
        let mut companion = true;
        let mut identity = false;
        let mut dart = None;
        let mut params = nvme::Params::default();
        let mut channels = 8;
        let mut overrides = Vec::new();
        for item in rest.split(',') {
            let (key, value) = item
                .split_once('=')
                .ok_or_else(|| format!("'{item}' is not KEY=VALUE"))?;
            match (kind, key) {
                (_, "name") => name = Some(value.to_owned()),
                (_, "bdf") => at = Some(bdf(value)?),
                (_, "companion") => companion = flag(key, value)?,
                (_, "identity") => identity = flag(key, value)?,
                (_, "dart") => dart = Some(value.to_owned()),
                ("nvme", "file") => file = Some(PathBuf::from(value)),
                ("nvme", "lba") => {
                    params.lba_shift = match number(value)? {
                        512 => 9,
                        4096 => 12,
                        n => return Err(format!("lba={n}: use 512 or 4096")),
                    }
                }
                ("nvme", "mdts") => {
                    let bytes = small(key, value, 4096, nvme::MAX_MDTS)?;
                    if !bytes.is_power_of_two() {
                        return Err(format!("mdts={bytes} is not a power of two"));
                    }
                    params.mdts = bytes as usize;
                }
                ("nvme", "queues") => {
                    params.queues = small(key, value, 1, nvme::MAX_QUEUES.into())? as u16;
                }
                ("nvme", "rate") => params.rate = number(value)?,
                ("engine", "channels") => {
                    channels = small(key, value, 1, engine::MAX_CHANNELS.into())? as u16;
                }
                _ => overrides.push((key.to_owned(), value.to_owned())),
            }
        }
        let kind = match kind {
            "nvme" => Kind::Nvme {
                file: file.ok_or("an nvme device needs file=IMAGE")?,
                params,
            },
            "engine" => Kind::Engine { channels },
            "endpoint" => Kind::Endpoint,
            "qemu" => Kind::Qemu,
            other => {
                return Err(format!(
                    "'{other}' is no kind of device: nvme, engine, endpoint or qemu"
                ))
            }
        };
        let name = name.ok_or("a device needs name=NAME")?;
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(good) {
            return Err(format!("'{name}' is no name for a device"));
        }
        Ok(Self {
            kind,
            name,
            bdf: at.ok_or("a device needs bdf=BUS:DEV.FN")?,
            companion,
            identity,
            dart,
            overrides,
        })
    }
}

impl Spec {
    /// Returns the options of this device: `defaults`, with the device's overrides.
    pub fn options(&self, defaults: &Options) -> Result<Options, String> {
        let mut o = defaults.clone();
        for (key, value) in &self.overrides {
            let (k, v) = (key.as_str(), value.as_str());
            match k {
                "dialect" => o.dialect = choice(k, v)?,
                "placement" => o.placement = v.parse()?,
                "iova-base" => o.iova_base = number(v)?,
                "iova-size" => o.iova_size = number(v)?,
                "max-bytes" => o.max_bytes = number(v)?,
                "max-entries" => o.max_entries = number(v)?,
                "max-batch" => o.max_batch = small(k, v, 1, 1 << 20)? as u32,
                "panic-bytes" => o.panic_bytes = number(v)?,
                "panic-entries" => o.panic_entries = number(v)?,
                "max-segment" => o.max_segment = Some(number(v)?),
                "fragment" => o.fragment = small(k, v, 0, 1000)? as u32,
                "fragment-seed" => o.fragment_seed = number(v)?,
                "split-above" => o.split_above = number(v)?,
                "costs" => o.costs = choice(k, v)?,
                "latency-us" => o.latency_us = Some(number(v)?),
                "map-us" => o.map_us = Some(number(v)?),
                "unmap-us" => o.unmap_us = Some(number(v)?),
                "unmap-unknown-us" => o.unmap_unknown_us = Some(number(v)?),
                "cost-spread" => o.cost_spread = small(k, v, 0, 100)? as u32,
                "cost-seed" => o.cost_seed = number(v)?,
                "cost-factor" => o.cost_factor = factor(v)?,
                "device-delay-us" => o.device_delay_us = number(v)?,
                "check-unmap-size" => o.check_unmap_size = flag(k, v)?,
                "hostile" => o.hostile = choice(k, v)?,
                "reg-version" => o.reg_version = Some(number32(v)?),
                "reg-max-entries" => o.reg_max_entries = Some(number32(v)?),
                "reg-bdf" => o.reg_bdf = Some(number32(v)?),
                _ => return Err(format!("device {}: no key '{k}'", self.name)),
            }
        }
        Ok(o)
    }
}

impl Options {
    /// Returns the DART's limits.
    pub fn limits(&self) -> dart::Limits {
        dart::Limits {
            max_entries: self.max_entries,
            max_bytes: self.max_bytes,
            panic_entries: self.panic_entries,
            panic_bytes: self.panic_bytes,
        }
    }

    /// Returns the host's rules for single requests.
    pub fn rules(&self) -> dart::Rules {
        dart::Rules {
            check_unmap_size: self.check_unmap_size,
            max_segment: self.max_segment.unwrap_or(u64::MAX),
            fragment: self.fragment,
            fragment_seed: self.fragment_seed,
            split_above: self.split_above,
        }
    }

    /// Returns the time that the host takes.
    pub fn costs(&self) -> Costs {
        let preset = Costs::from(self.costs);
        Costs {
            doorbell_us: self.latency_us.unwrap_or(preset.doorbell_us),
            map_us: self.map_us.unwrap_or(preset.map_us),
            unmap_us: self.unmap_us.unwrap_or(preset.unmap_us),
            unmap_unknown_us: self.unmap_unknown_us.unwrap_or(preset.unmap_unknown_us),
            spread: self.cost_spread,
            seed: self.cost_seed,
            factor: self.cost_factor,
        }
    }

    /// Returns the configuration of the companion of a device at `bdf`.
    pub fn companion(&self, bdf: u16) -> companion::Config {
        companion::Config {
            dialect: self.dialect,
            max_batch: self.max_batch,
            reg_version: self
                .reg_version
                .unwrap_or(crate::wire::companion::APPLE_DMA_PCI_VERSION),
            reg_bdf: self.reg_bdf.unwrap_or(bdf.into()),
            reg_max_entries: self.reg_max_entries.unwrap_or(self.max_batch),
        }
    }

    /// Returns the first IOVA of the aperture.
    pub fn iova_base(&self) -> Iova {
        Iova(self.iova_base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["apple-dma-mac", "--dir", "/tmp"].iter().chain(args))
    }

    const ENGINE: &str = "engine:name=dma0,bdf=00:06.0";

    #[test]
    fn numbers() {
        assert_eq!(number("0x801c0000"), Ok(0x801c_0000));
        assert_eq!(number("64M"), Ok(64 << 20));
        assert_eq!(number("0x10k"), Ok(16 << 10));
        for bad in [
            "",
            "K",
            "-1",
            "1.5G",
            "0x",
            "18446744073709551616",
            "99999999T",
        ] {
            assert!(number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn specs() {
        let s: Spec = "nvme:name=nvme0,bdf=01:1f.7,file=a/b.img,lba=4096,queues=3,companion=no"
            .parse()
            .unwrap();
        assert_eq!(s.bdf, 0x01ff);
        assert!(!s.companion && !s.identity);
        let Kind::Nvme { file, params } = s.kind else {
            panic!()
        };
        assert_eq!(file, PathBuf::from("a/b.img"));
        assert_eq!((params.lba_shift, params.queues), (12, 3));
        let s: Spec = ENGINE.parse().unwrap();
        assert_eq!((s.bdf, s.kind), (0x30, Kind::Engine { channels: 8 }));
        let s: Spec = format!("{ENGINE},identity=yes").parse().unwrap();
        assert!(s.identity);
        let s: Spec = "endpoint:name=ep0,bdf=00:07.0".parse().unwrap();
        assert_eq!(s.kind, Kind::Endpoint);
        let s: Spec = "qemu:name=hba0,bdf=00:05.0".parse().unwrap();
        assert_eq!(s.kind, Kind::Qemu);
    }

    #[test]
    fn bad_specs_say_what_is_bad() {
        for (spec, what) in [
            ("", "begins with"),
            ("gpu:name=a,bdf=0:1.0", "no kind"),
            ("engine:bdf=0:1.0", "name="),
            ("engine:name=a", "bdf="),
            ("engine:name=a,bdf=5", "no address"),
            ("engine:name=a,bdf=00:20.0", "no address"),
            ("engine:name=../a,bdf=00:01.0", "no name"),
            ("engine:name=a,bdf=00:01.0,channels=61", "1 to 60"),
            ("engine:name=a,bdf=00:01.0,channels", "KEY=VALUE"),
            ("nvme:name=a,bdf=00:01.0", "file="),
            ("nvme:name=a,bdf=00:01.0,file=x,lba=520", "lba="),
            ("nvme:name=a,bdf=00:01.0,file=x,mdts=5000", "power of two"),
            ("nvme:name=a,bdf=00:01.0,file=x,queues=0", "queues="),
        ] {
            let e = spec.parse::<Spec>().unwrap_err();
            assert!(e.contains(what), "{spec}: {e}");
        }
    }

    #[test]
    fn overrides_apply_and_unknown_ones_are_errors() {
        let c = cli(&["--device", ENGINE, "--max-bytes", "1M", "--dialect", "u64"]).unwrap();
        let spec: Spec = format!("{ENGINE},max-entries=5,placement=random:9,hostile=wrong-id")
            .parse()
            .unwrap();
        let o = spec.options(&c.options).unwrap();
        assert_eq!((o.max_bytes, o.max_entries), (1 << 20, 5));
        assert_eq!(o.dialect, Dialect::U64);
        assert_eq!(o.placement, Placement::Random(9));
        assert_eq!(o.hostile, Hostile::WrongId);
        let spec: Spec = format!("{ENGINE},speed=9").parse().unwrap();
        assert!(spec.options(&c.options).unwrap_err().contains("speed"));
    }

    #[test]
    fn costs_of_all_and_of_one() {
        let c = cli(&["--device", ENGINE, "--costs=field", "--map-us=3000"]).unwrap();
        let spec: Spec = format!("{ENGINE},unmap-us=500,latency-us=30,cost-factor=0.1")
            .parse()
            .unwrap();
        let costs = spec.options(&c.options).unwrap().costs();
        assert_eq!((costs.doorbell_us, costs.map_us), (30, 3000));
        assert_eq!((costs.unmap_us, costs.unmap_unknown_us), (500, 2000));
        assert_eq!((costs.spread, costs.factor), (0, 0.1));
        let spec: Spec = format!("{ENGINE},costs=fast,cost-spread=20,cost-seed=7")
            .parse()
            .unwrap();
        let costs = spec.options(&c.options).unwrap().costs();
        assert_eq!((costs.map_us, costs.unmap_us), (3000, 0));
        assert_eq!((costs.spread, costs.seed), (20, 7));
        for bad in [
            "cost-spread=101",
            "cost-factor=-1",
            "cost-factor=x",
            "costs=slow",
        ] {
            let spec: Spec = format!("{ENGINE},{bad}").parse().unwrap();
            assert!(spec.options(&c.options).is_err(), "{bad}");
            assert!(
                cli(&["--device", ENGINE, &format!("--{bad}")]).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn rules_of_one() {
        let c = cli(&["--device", ENGINE, "--max-segment=2M"]).unwrap();
        let text = format!("{ENGINE},dart=d,fragment=5,fragment-seed=6,split-above=1M");
        let spec: Spec = text.parse().unwrap();
        assert_eq!(spec.dart.as_deref(), Some("d"));
        let rules = spec.options(&c.options).unwrap().rules();
        assert_eq!((rules.max_segment, rules.split_above), (2 << 20, 1 << 20));
        assert_eq!((rules.fragment, rules.fragment_seed), (5, 6));
        let spec: Spec = format!("{ENGINE},fragment=1001").parse().unwrap();
        assert!(spec.options(&c.options).is_err());
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        assert!(cli(&[]).is_err());
        assert!(cli(&["--device", "engine:name=a"]).is_err());
        assert!(cli(&["--device", ENGINE, "--identity", "--no-dext"]).is_err());
        assert!(cli(&["--device", ENGINE, "--max-batch", "0"]).is_err());
        assert!(cli(&["--device", ENGINE, "--hostile", "kind"]).is_err());
        assert!(cli(&["--device", ENGINE, "--reg-bdf", "0x100000000"]).is_err());
        let c = cli(&["--device", ENGINE, "--reg-bdf", "0xffffffff"]).unwrap();
        assert_eq!(c.options.companion(5).reg_bdf, u32::MAX);
    }

    #[test]
    fn defaults_are_the_platform() {
        let o = cli(&["--device", ENGINE]).unwrap().options;
        assert_eq!(o.iova_base, 0x8001_0000_0000);
        assert_eq!((o.max_bytes, o.max_entries), (3 << 29, 65_536));
        assert_eq!(o.limits(), dart::Limits::default());
        assert_eq!(o.rules(), dart::Rules::default());
        assert_eq!(o.costs(), Costs::default());
        let c = o.companion(0x28);
        assert_eq!(
            (c.reg_version, c.reg_bdf, c.reg_max_entries),
            (2, 0x28, 4096)
        );
    }
}
