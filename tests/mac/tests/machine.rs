// SPDX-License-Identifier: GPL-2.0

//! The whole machine over its sockets, with a vfio-user client in QEMU's place.

use apple_dma_mac::{
    cli::Cli,
    mac::{
        Event,
        Mac, //
    },
    wire::{
        companion::*,
        engine::*, //
    },
};
use clap::Parser;
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
    os::{
        fd::AsRawFd,
        unix::{
            fs::FileExt,
            net::UnixStream, //
        },
    },
    path::{
        Path,
        PathBuf, //
    },
    process::{
        Child,
        Command,
        Stdio, //
    },
    sync::{
        mpsc::{
            channel,
            Receiver, //
        },
        Arc, //
    },
    time::{
        Duration,
        Instant, //
    },
};
use vfio_bindings::bindings::vfio::*;
use vfio_user::Client;
use vmm_sys_util::eventfd::{
    EventFd,
    EFD_NONBLOCK, //
};

const RAM: u64 = 0x4000_0000;
const RAM_SIZE: u64 = 8 << 20;
const CMD: u64 = 0x1000;
const REQ: u64 = 0x2000;
const RESP: u64 = 0x3000;
const DATA: u64 = 0x1_0040;

/// A directory that is removed when dropped.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("adm-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn arg(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.sock"))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn start(dir: &Dir, args: &[&str]) -> (Arc<Mac>, Receiver<Event>) {
    let common = ["apple-dma-mac", "--dir", dir.arg()];
    let cli = Cli::try_parse_from(common.iter().chain(args)).unwrap();
    let (events, inbox) = channel();
    let mac = Mac::new(&cli, events).unwrap();
    mac.listen(&cli.dir).unwrap();
    (mac, inbox)
}

/// The part of QEMU: RAM in a file, a connection per function.
struct Qemu {
    ram: File,
    companion: Client,
    device: Client,
}

impl Qemu {
    fn new(dir: &Dir, name: &str) -> Self {
        let path = dir.0.join("ram");
        // Every QEMU has its own RAM.
        let _ = fs::remove_file(&path);
        let ram = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .unwrap();
        ram.set_len(RAM_SIZE).unwrap();
        let connect = |name: &str| {
            let mut client = Client::new(&dir.socket(name)).unwrap();
            client.dma_map(0, RAM, RAM_SIZE, ram.as_raw_fd()).unwrap();
            // Memory and bus mastering.
            client
                .region_write(VFIO_PCI_CONFIG_REGION_INDEX, 4, &[6, 0])
                .unwrap();
            client
        };
        Self {
            companion: connect(&format!("{name}-companion")),
            device: connect(name),
            ram,
        }
    }

    fn put(&self, at: u64, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.ram.write_all_at(&bytes, at).unwrap();
    }

    fn word(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.ram.read_exact_at(&mut bytes, at).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Maps one range in the u32 dialect. Returns the batch's status.
    fn map(&mut self, at: u64, len: u32) -> u32 {
        let (lo, hi) = ((RAM + at) as u32, 0);
        self.put(REQ, &[lo, hi, len, 0]);
        let cmd = [APPLE_DMA_PCI_CMD_MAP, 1, !0, 0];
        self.put(CMD, &cmd);
        self.put(CMD + 16, &[(RAM + REQ) as u32, 0, (RAM + RESP) as u32, 0]);
        for (register, value) in [
            (APPLE_DMA_PCI_REG_CMD_GPA_LO, (RAM + CMD) as u32),
            (APPLE_DMA_PCI_REG_CMD_GPA_HI, 0),
            (APPLE_DMA_PCI_REG_DOORBELL, 1),
        ] {
            self.companion
                .region_write(0, register.into(), &value.to_le_bytes())
                .unwrap();
        }
        self.word(CMD + 8)
    }

    fn iova(&self) -> u64 {
        u64::from(self.word(RESP + 8)) | (u64::from(self.word(RESP + 12)) << 32)
    }

    fn set(&mut self, at: u32, value: u32) {
        let at = DMA_ENGINE_CHANNEL_BASE + at;
        self.device
            .region_write(0, at.into(), &value.to_le_bytes())
            .unwrap();
    }

    fn get(&mut self, at: u32) -> u32 {
        let at = DMA_ENGINE_CHANNEL_BASE + at;
        let mut bytes = [0; 4];
        self.device.region_read(0, at.into(), &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Fills a range by DMA and returns the channel's status.
    fn fill(&mut self, iova: u64, len: u32, flags: u32) -> u32 {
        self.set(DMA_ENGINE_CH_DST_LO, iova as u32);
        self.set(DMA_ENGINE_CH_DST_HI, (iova >> 32) as u32);
        self.set(DMA_ENGINE_CH_LEN, len);
        self.set(DMA_ENGINE_CH_CMD, DMA_ENGINE_CMD_FILL | flags);
        loop {
            match self.get(DMA_ENGINE_CH_STATUS) {
                DMA_ENGINE_STATUS_BUSY => std::thread::yield_now(),
                status => return status,
            }
        }
    }
}

struct Control {
    out: UnixStream,
    lines: std::io::Lines<BufReader<UnixStream>>,
}

impl Control {
    fn new(dir: &Dir) -> Self {
        let out = UnixStream::connect(dir.socket("control")).unwrap();
        let lines = BufReader::new(out.try_clone().unwrap()).lines();
        Self { out, lines }
    }

    fn ask(&mut self, line: &str) -> Value {
        writeln!(self.out, "{line}").unwrap();
        serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
    }
}

const ENGINE: [&str; 2] = ["--device", "engine:name=dma0,bdf=00:06.0,channels=2"];

fn closed(inbox: &Receiver<Event>) {
    let event = inbox.recv_timeout(Duration::from_secs(20));
    assert_eq!(event, Ok(Event::AllClosed));
}

#[test]
fn a_guest_maps_and_a_device_reaches() {
    let dir = Dir::new("maps");
    let (mac, inbox) = start(&dir, &ENGINE);
    let mut q = Qemu::new(&dir, "dma0");

    let mut id = [0; 4];
    q.companion
        .region_read(VFIO_PCI_CONFIG_REGION_INDEX, 0, &mut id)
        .unwrap();
    assert_eq!(u32::from_le_bytes(id), 0x0015_1b36);
    let mut bdf = [0; 4];
    q.companion
        .region_read(0, APPLE_DMA_PCI_REG_MANAGED_BDF.into(), &mut bdf)
        .unwrap();
    assert_eq!(u32::from_le_bytes(bdf), 0x30);
    let config = q.companion.region(VFIO_PCI_CONFIG_REGION_INDEX).unwrap();
    assert_eq!(config.size, 256);
    let irq = q.device.get_irq_info(VFIO_PCI_MSIX_IRQ_INDEX).unwrap();
    assert_eq!(irq.count, 2);

    let eventfd = EventFd::new(EFD_NONBLOCK).unwrap();
    q.device
        .set_irqs(
            VFIO_PCI_MSIX_IRQ_INDEX,
            VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
            0,
            1,
            &[eventfd.as_raw_fd()],
        )
        .unwrap();

    assert_eq!(q.map(DATA, 0x100), APPLE_DMA_PCI_STATUS_OK);
    let iova = q.iova();
    assert_eq!(
        q.fill(iova, 0x100, DMA_ENGINE_CMD_IRQ),
        DMA_ENGINE_STATUS_DONE
    );
    assert_eq!(eventfd.read().unwrap(), 1);
    assert_eq!(q.word(DATA), 0x7b1d_cdaf);
    assert_eq!(q.fill(iova, 0x101, 0), DMA_ENGINE_STATUS_FAULT);
    assert_eq!(q.map(RAM_SIZE - 0x100, 0x101), APPLE_DMA_PCI_STATUS_IOERR);

    // FLR clears the engine and bus mastering; mappings stay.
    q.device
        .region_write(VFIO_PCI_CONFIG_REGION_INDEX, 0x68, &[0x10, 0xa8])
        .unwrap();
    assert_eq!(q.get(DMA_ENGINE_CH_STATUS), DMA_ENGINE_STATUS_IDLE);
    assert_eq!(q.fill(iova, 1, 0), DMA_ENGINE_STATUS_FAULT);
    q.companion.reset().unwrap();
    q.companion
        .region_write(VFIO_PCI_CONFIG_REGION_INDEX, 4, &[6, 0])
        .unwrap();
    assert_eq!(q.map(DATA, 0x100), APPLE_DMA_PCI_STATUS_IOERR);

    let stats = serde_json::to_value(mac.stats()).unwrap();
    let pair = &stats["devices"]["dma0"];
    assert_eq!(pair["device"]["faults"], 2);
    assert_eq!(pair["device"]["faults_bme_off"], 1);
    assert_eq!(pair["device"]["resets"], 1);
    assert_eq!(pair["companion"]["refusals"]["not_ram"], 1);
    assert_eq!(pair["companion"]["refusals"]["live_key"], 1);
    assert_eq!(pair["companion"]["violations"]["count"], 0);

    // RAM that QEMU removes is no longer RAM.
    q.companion.dma_unmap(RAM, RAM_SIZE).unwrap();
    q.map(DATA + 0x8000, 1);
    let stats = serde_json::to_value(mac.stats()).unwrap();
    assert_eq!(stats["devices"]["dma0"]["companion"]["inval_batches"], 1);

    drop(q);
    closed(&inbox);
    let stats = serde_json::to_value(mac.stats()).unwrap();
    let companion = &stats["devices"]["dma0"]["companion"];
    assert_eq!(companion["live_at_disconnect"], 1);
    assert_eq!(companion["live_mappings"], 0);

    // The next QEMU starts without mappings.
    let mut q = Qemu::new(&dir, "dma0");
    assert_eq!(q.map(DATA, 0x100), APPLE_DMA_PCI_STATUS_OK);
    assert_eq!(q.fill(q.iova(), 0x100, 0), DMA_ENGINE_STATUS_DONE);
    assert_eq!(q.word(DATA), 0x7b1d_cdaf);
    drop(q);
    closed(&inbox);
    mac.remove_sockets();
    assert!(!dir.socket("dma0").exists());
}

/// Two engines that share a DART which holds three granules.
const SHARED: [&str; 6] = [
    "--device",
    "engine:name=a,bdf=00:06.0,channels=1,dart=d",
    "--device",
    "engine:name=b,bdf=00:06.1,channels=1,dart=d",
    "--max-bytes=48K",
    "--panic-bytes=48K",
];

#[test]
fn devices_share_a_dart() {
    let dir = Dir::new("share");
    let (mac, inbox) = start(&dir, &SHARED);
    let stats = || serde_json::to_value(mac.stats()).unwrap();
    // Keys are those of a companion: the same key may be live for both.
    let (mut a, mut b) = (Qemu::new(&dir, "a"), Qemu::new(&dir, "b"));
    assert_eq!(a.map(0x1_0000, 0x8000), APPLE_DMA_PCI_STATUS_OK);
    assert_eq!(b.map(0x1_0000, 0x4000), APPLE_DMA_PCI_STATUS_OK);
    let iova = b.iova();
    assert_eq!(b.fill(iova, 0x4000, 0), DMA_ENGINE_STATUS_DONE);
    assert_eq!(a.fill(iova, 1, 0), DMA_ENGINE_STATUS_FAULT);
    let all = json!({
        "live_mappings": 2, "live_bytes": 0xc000, "peak_mappings": 2, "peak_bytes": 0xc000
    });
    assert_eq!(stats()["darts"]["d"], all);
    // What one device leaves is all that the other may have.
    assert_eq!(a.map(0x2_0000, 1), APPLE_DMA_PCI_STATUS_IOERR);
    let panics = |name| stats()["devices"][name]["companion"]["panics"]["count"].clone();
    assert_eq!((panics("a"), panics("b")), (json!(1), json!(0)));
    drop((a, b));
    closed(&inbox);
    assert_eq!(stats()["darts"]["d"]["live_bytes"], 0);
}

#[test]
fn devices_behind_one_dart_agree_on_it() {
    let dir = Dir::new("agree");
    let device = |more| format!("engine:name=a{more},bdf=00:06.0,dart=d,max-bytes={more}M");
    let (one, two) = (device("1"), device("2"));
    let common = ["apple-dma-mac", "--dir", dir.arg()];
    let args = ["--device", one.as_str(), "--device", two.as_str()];
    let cli = Cli::try_parse_from(common.iter().chain(&args)).unwrap();
    let error = Mac::new(&cli, channel().0).map(drop).unwrap_err();
    assert!(format!("{error:#}").contains("other limits"), "{error:#}");
}

#[test]
fn others_are_served_while_a_batch_takes_its_time() {
    let dir = Dir::new("busy");
    let mut args = vec!["--device", "engine:name=b,bdf=00:07.0,channels=1"];
    args.extend(ENGINE);
    let (_mac, inbox) = start(&dir, &args);
    let mut a = Qemu::new(&dir, "dma0");
    let b = Qemu::new(&dir, "b");
    let mut c = Control::new(&dir);
    assert_eq!(a.map(DATA, 0x100), APPLE_DMA_PCI_STATUS_OK);
    let iova = a.iova();
    let set = r#"{"cmd":"set","device":"dma0","map_us":3000000}"#;
    assert_eq!(c.ask(set), json!({ "ok": true }));

    // The batch of before again, whose entry is refused this time.
    let (ram, mut companion) = (a.ram, a.companion);
    let batch = std::thread::spawn(move || {
        let doorbell = APPLE_DMA_PCI_REG_DOORBELL.into();
        companion.region_write(0, doorbell, &[1, 0, 0, 0]).unwrap();
    });
    let mut q = Qemu {
        ram: b.ram,
        companion: b.companion,
        device: a.device,
    };
    let mut longest = Duration::ZERO;
    let mut rounds = 0;
    while !batch.is_finished() {
        let start = Instant::now();
        assert_eq!(q.fill(iova, 0x100, 0), DMA_ENGINE_STATUS_DONE);
        // Later keys would be live.
        if rounds < 64 {
            let status = q.map(0x2_0000 + rounds * 0x4000, 0x100);
            assert_eq!(status, APPLE_DMA_PCI_STATUS_OK);
        }
        rounds += 1;
        let stats = c.ask(r#"{"cmd":"stats"}"#);
        assert_eq!(stats["devices"]["dma0"]["companion"]["live_mappings"], 1);
        assert_eq!(
            c.ask(r#"{"cmd":"set","device":"dma0"}"#),
            json!({ "ok": true })
        );
        longest = longest.max(start.elapsed());
    }
    batch.join().unwrap();
    assert!(longest < Duration::from_millis(1500), "{longest:?}");
    let stats = c.ask(r#"{"cmd":"stats"}"#);
    let s = &stats["devices"]["dma0"]["companion"];
    assert_eq!(s["modelled_ns_max"], 3_000_000_000u64);
    assert!(s["doorbell_ns_max"].as_u64() >= Some(3_000_000_000));
    assert_eq!(c.ask(r#"{"cmd":"reset-longest"}"#), json!({ "ok": true }));
    let after = &c.ask(r#"{"cmd":"stats"}"#)["devices"]["dma0"]["companion"];
    assert_eq!(
        (&after["doorbell_ns_max"], &after["modelled_ns_max"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(after["modelled_ns"], s["modelled_ns"]);
    assert_eq!(s["refusals"]["live_key"], 1);
    drop((ram, q, b.device));
    closed(&inbox);
}

#[test]
fn costs_and_rules_change_while_a_guest_runs() {
    let dir = Dir::new("costs");
    let (mac, _inbox) = start(&dir, &ENGINE);
    let mut c = Control::new(&dir);
    let mut q = Qemu::new(&dir, "dma0");
    let set =
        |c: &mut Control, what: &str| c.ask(&format!(r#"{{"cmd":"set","device":"dma0",{what}}}"#));
    for bad in [
        r#""cost_factor":-1"#,
        r#""cost_spread":101"#,
        r#""costs":"slow""#,
    ] {
        assert!(set(&mut c, bad)["error"].is_string(), "{bad}");
    }
    let mut at = 0x1_0000;
    for (what, us) in [
        (r#""costs":"field","cost_factor":0"#, 2000),
        (r#""latency_us":30,"map_us":100"#, 130),
        (r#""costs":"fast""#, 0),
    ] {
        let before = mac.stats().devices["dma0"]
            .companion
            .as_ref()
            .unwrap()
            .modelled_ns;
        assert_eq!(set(&mut c, what), json!({ "ok": true }));
        at += 0x4000;
        assert_eq!(q.map(at, 0x100), APPLE_DMA_PCI_STATUS_OK);
        let after = mac.stats().devices["dma0"]
            .companion
            .as_ref()
            .unwrap()
            .modelled_ns;
        assert_eq!(after - before, us * 1000, "{what}");
    }
    for (what, counter) in [
        (r#""max_segment":16384"#, "segment"),
        (r#""max_segment":65536,"fragment":1000"#, "fragmented"),
        (r#""fragment":0,"max_bytes":65536"#, "bytes"),
        (r#""panic_bytes":65536"#, "panic"),
    ] {
        assert_eq!(set(&mut c, what), json!({ "ok": true }));
        assert_eq!(
            q.map(0x4_0000, 0x8000),
            APPLE_DMA_PCI_STATUS_IOERR,
            "{what}"
        );
        let stats = c.ask(r#"{"cmd":"stats"}"#);
        let refusals = &stats["devices"]["dma0"]["companion"]["refusals"];
        assert_eq!(refusals[counter], 1, "{what}: {refusals}");
    }
    assert_eq!(
        set(&mut c, r#""max_bytes":1048576,"split_above":16384"#),
        json!({ "ok": true })
    );
    assert_eq!(q.map(0x4_0000, 0x8000), APPLE_DMA_PCI_STATUS_OK);
    let companion = mac.stats().devices["dma0"].companion.clone().unwrap();
    assert_eq!((companion.split, companion.panics.count), (1, 1));
}

#[test]
fn mappings_outlive_either_connection() {
    let dir = Dir::new("outlive");
    let (mac, inbox) = start(&dir, &ENGINE);
    let mut q = Qemu::new(&dir, "dma0");
    assert_eq!(q.map(DATA, 0x100), APPLE_DMA_PCI_STATUS_OK);
    let iova = q.iova();
    let Qemu {
        ram,
        companion,
        device,
    } = q;
    drop(companion);
    std::thread::sleep(Duration::from_millis(50));
    let mut q = Qemu {
        ram,
        device,
        companion: Client::new(&dir.socket("dma0-companion")).unwrap(),
    };
    assert_eq!(q.fill(iova, 0x100, 0), DMA_ENGINE_STATUS_DONE);
    assert_eq!(
        serde_json::to_value(mac.stats()).unwrap()["devices"]["dma0"]["companion"]["live_mappings"],
        1
    );
    drop(q);
    closed(&inbox);
}

#[test]
fn control_answers_and_changes() {
    let dir = Dir::new("control");
    let (_mac, inbox) = start(&dir, &ENGINE);
    let mut c = Control::new(&dir);
    let mut q = Qemu::new(&dir, "dma0");

    for bad in [
        "",
        "{}",
        "nonsense",
        r#"{"cmd":"dance"}"#,
        r#"{"cmd":"mappings"}"#,
        r#"{"cmd":"mappings","device":"dma1"}"#,
        r#"{"cmd":"set","device":"dma0","speed":1}"#,
        r#"{"cmd":"set","device":"dma0","hostile":"rude"}"#,
        r#"{"cmd":"set","device":"dma0","placement":"left"}"#,
        r#"{"cmd":"set","device":"dma0","max_bytes":-1}"#,
    ] {
        if !bad.is_empty() {
            let answer = c.ask(bad);
            assert!(answer["error"].is_string(), "{bad}: {answer}");
        }
    }

    let ok = json!({ "ok": true });
    assert_eq!(
        c.ask(r#"{"cmd":"set","device":"dma0","placement":"high"}"#),
        ok
    );
    assert_eq!(q.map(DATA, 0x100), APPLE_DMA_PCI_STATUS_OK);
    let answer = c.ask(r#"{"cmd":"mappings","device":"dma0"}"#);
    let expected = json!([{ "gpa": RAM + DATA, "len": 0x100, "iova": q.iova() }]);
    assert_eq!(answer["mappings"], expected);
    assert!(q.iova() > 0x8001_0000_0000 + (8 << 30));

    let limits = [
        r#"{"cmd":"set","device":"dma0","max_entries":1}"#,
        r#"{"cmd":"set","device":"dma0","max_entries":9,"max_bytes":16384}"#,
        r#"{"cmd":"set","device":"dma0","max_bytes":65536,"refuse_next":1}"#,
        r#"{"cmd":"set","device":"dma0","refuse_every":1}"#,
        r#"{"cmd":"set","device":"dma0","refuse_every":0,"hostile":"ok-though-failed"}"#,
    ];
    for line in limits {
        assert_eq!(c.ask(line), ok);
        let last = line.contains("hostile");
        let expected = match last {
            true => APPLE_DMA_PCI_STATUS_OK,
            false => APPLE_DMA_PCI_STATUS_IOERR,
        };
        let at = if last { DATA } else { DATA + 0x8000 };
        assert_eq!(q.map(at, 0x100), expected, "{line}");
    }
    let stats = c.ask(r#"{"cmd":"stats"}"#);
    let s = &stats["devices"]["dma0"]["companion"];
    let r = &s["refusals"];
    assert_eq!((&r["slots"], &r["bytes"]), (&json!(1), &json!(1)));
    assert_eq!((&r["injected"], &s["lies"]), (&json!(2), &json!(1)));
    assert_eq!(c.ask(r#"{"cmd":"reset-stats"}"#), ok);
    let stats = c.ask(r#"{"cmd":"stats"}"#);
    let s = &stats["devices"]["dma0"]["companion"];
    assert_eq!(
        (&s["doorbells"], &s["live_mappings"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(s["peak_mappings"], 1);
    assert_eq!(c.ask(r#"{"cmd":"quit"}"#), ok);
    assert_eq!(inbox.recv(), Ok(Event::Quit));
}

/// The simulator's process.
struct Program(Child);

impl Program {
    fn start(dir: &Dir, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_apple-dma-mac"))
            .args(["--dir", dir.arg()])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn end(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            assert!(Instant::now() < end, "the program does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn fails(dir: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_apple-dma-mac"))
        .args(["--dir", dir.to_str().unwrap()])
        .args(args)
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn once_ends_with_the_last_connection_and_writes_statistics() {
    let dir = Dir::new("once");
    let stats = dir.0.join("stats.json");
    // A stale socket.
    drop(std::os::unix::net::UnixListener::bind(dir.socket("dma0")).unwrap());
    let args = [&ENGINE[..], &["--once", "--stats", stats.to_str().unwrap()]].concat();
    let mut program = Program::start(&dir, &args);
    let mut q = Qemu::new(&dir, "dma0");
    q.map(DATA, 4);
    drop(q);
    assert!(program.end());
    let stats: Value = serde_json::from_slice(&fs::read(stats).unwrap()).unwrap();
    assert_eq!(stats["devices"]["dma0"]["kind"], "engine");
    assert_eq!(
        stats["devices"]["dma0"]["companion"]["live_at_disconnect"],
        1
    );
    assert!(!dir.socket("control").exists());
}

#[test]
fn a_signal_ends_it_in_order() {
    let dir = Dir::new("signal");
    let stats = dir.0.join("stats.json");
    let args = [&ENGINE[..], &["--stats", stats.to_str().unwrap()]].concat();
    let mut program = Program::start(&dir, &args);
    let killed = Command::new("sh")
        .args(["-c", &format!("kill {}", program.0.id())])
        .status()
        .unwrap();
    assert!(killed.success());
    assert!(program.end());
    assert!(stats.exists());
}

#[test]
fn errors_are_clear() {
    let dir = Dir::new("errors");
    for (args, what) in [
        (
            &["--device", "nvme:name=n,bdf=00:05.0,file=/nonexistent"][..],
            "/nonexistent",
        ),
        (&["--device", "engine:name=a"], "bdf="),
        (
            &["--device", "engine:name=control,bdf=00:05.0"],
            "control.sock is taken",
        ),
        (
            &[
                "--device",
                "engine:name=a,bdf=00:05.0",
                "--device",
                "engine:name=a,bdf=00:06.0",
            ],
            "a.sock is taken",
        ),
        (
            &["--device", "engine:name=a,bdf=00:05.0,iova-base=1"],
            "16 KiB",
        ),
    ] {
        let error = fails(&dir.0, args);
        assert!(error.contains(what), "{error}");
    }
    assert!(fails(&dir.0.join("none"), &ENGINE).contains("no directory"));
    let long = dir.0.join("x".repeat(100));
    fs::create_dir(&long).unwrap();
    assert!(fails(&long, &ENGINE).contains("at most 107 bytes"));
    fs::write(dir.socket("dma0"), "").unwrap();
    assert!(fails(&dir.0, &ENGINE).contains("is no socket"));
    assert!(dir.socket("dma0").exists());
}
