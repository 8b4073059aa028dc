// SPDX-License-Identifier: GPL-2.0

//! The whole machine: devices with their companions, sockets and threads.

use crate::bus::Bus;
use crate::cli::{
    Cli,
    Kind,
    Options,
    Spec, //
};
use crate::companion::{
    self,
    Companion,
    Settings,
    Shared,
    Translator, //
};
use crate::control;
use crate::dart::{
    Dart,
    Limits,
    Mode,
    Pool, //
};
use crate::device::Device;
use crate::endpoint::{
    self,
    Endpoint, //
};
use crate::engine::Engine;
use crate::iova::{
    IovaSpace,
    Placement, //
};
use crate::memory::GuestRam;
use crate::nvme;
use crate::pci::Identity;
use crate::server::{
    self,
    Function,
    Managed,
    Port,
    Watcher, //
};
use crate::stats::{
    PairStats,
    Stats, //
};
use crate::sync::lock;
use crate::vtd::{
    self,
    Vtd, //
};
use anyhow::{
    anyhow,
    bail,
    Context,
    Result, //
};
use std::{
    collections::{
        BTreeMap,
        BTreeSet, //
    },
    fs,
    io,
    os::unix::{
        fs::FileTypeExt,
        net::UnixListener, //
    },
    path::{
        Path,
        PathBuf, //
    },
    sync::{
        atomic::{
            AtomicUsize,
            Ordering, //
        },
        mpsc::{
            Receiver,
            Sender, //
        },
        Arc,
        Condvar,
        Mutex,
        RwLock, //
    },
    thread,
    time::Duration, //
};

/// Longest path of a socket in bytes: `sun_path` less its terminator.
const MAX_SOCKET_PATH: usize = 107;

/// Time for which a closed connection waits until its sibling is closed too.
const SIBLING_GRACE: Duration = Duration::from_millis(500);

/// A reason to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The end was requested.
    Quit,
    /// The last connection was closed.
    AllClosed,
}

/// A managed device and its companion.
pub struct Pair {
    /// Name of the managed device.
    pub name: String,
    /// The managed device, unless QEMU emulates it.
    pub device: Option<Arc<dyn Device>>,
    /// Its bus, with the DART.
    pub bus: Arc<Bus>,
    /// Its companion, when it has one.
    pub companion: Option<Arc<Shared>>,
    companion_config: companion::Config,
    connections: Mutex<Connections>,
    /// Notified when the last of them was closed.
    closed: Condvar,
    /// The IOMMU of a device that QEMU emulates.
    vtd: Option<Arc<Vtd>>,
}

/// Connections of a pair.
#[derive(Default)]
struct Connections {
    open: usize,
    /// Number of times that the last one was closed.
    epoch: u64,
}

/// A DART with a name, behind which several devices may be.
struct NamedDart {
    pool: Arc<Mutex<Pool>>,
    /// Properties that all of its devices must agree on.
    properties: (Limits, u64, u64, Placement),
}

/// The machine.
pub struct Mac {
    /// All devices.
    pub pairs: Vec<Arc<Pair>>,
    darts: BTreeMap<String, NamedDart>,
    /// Open connections of all of them.
    connections: AtomicUsize,
    events: Sender<Event>,
    sockets: Mutex<Vec<PathBuf>>,
    /// The IOMMU of devices that QEMU emulates.
    vtd: Option<Arc<Vtd>>,
}

/// Reports connections to a pair and to the machine.
struct Attendant {
    mac: Arc<Mac>,
    pair: Arc<Pair>,
}

impl Watcher for Attendant {
    fn opened(&self) {
        lock(&self.pair.connections).open += 1;
        self.mac.connections.fetch_add(1, Ordering::SeqCst);
    }

    fn closed(&self) {
        self.pair.closed();
        if self.mac.connections.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = self.mac.events.send(Event::AllClosed);
        }
    }
}

impl Pair {
    /// Creates a pair; `part` is for a device of QEMU.
    fn new(
        spec: &Spec,
        cli: &Cli,
        darts: &mut BTreeMap<String, NamedDart>,
        part: Option<vtd::Part>,
    ) -> Result<Self> {
        let options = spec.options(&cli.options).map_err(|e| anyhow!(e))?;
        let mode = match (cli.identity || spec.identity, cli.no_dext) {
            (true, _) => Mode::Identity,
            (_, true) => Mode::NoDext,
            _ => Mode::Dext,
        };
        let pool = pool(spec, &options, mode, darts)?;
        let mut dart = Dart::sharing(mode, options.rules(), pool);
        let mut ram = Arc::new(GuestRam::new());
        let mut domain = None;
        if let Some(part) = part {
            if mode != Mode::Dext || !spec.companion {
                bail!("a device of QEMU needs a dext and a companion");
            }
            vtd::check_aperture(options.iova_base, options.iova_size)?;
            dart = dart.with_tables(Box::new(part.tables));
            ram = part.ram;
            domain = Some(part.domain);
        }
        let dart = Arc::new(RwLock::new(dart));
        let delay = Duration::from_micros(options.device_delay_us);
        let vectors = match &spec.kind {
            Kind::Nvme { params, .. } => params.queues + 1,
            Kind::Engine { channels } => *channels,
            Kind::Endpoint => endpoint::MSIX_VECTORS,
            Kind::Qemu => 0,
        };
        let bus = Arc::new(Bus::new(&spec.name, ram, dart.clone(), vectors));
        let device: Option<Arc<dyn Device>> = match &spec.kind {
            Kind::Nvme { file, params } => {
                let disk = nvme::Disk::open(file, params.lba_shift)
                    .with_context(|| format!("image {}", file.display()))?;
                let controller = nvme::Controller::new(bus.clone(), disk, *params, delay)?;
                Some(Arc::new(controller))
            }
            Kind::Engine { .. } => Some(Arc::new(Engine::new(bus.clone(), delay)?)),
            Kind::Endpoint => Some(Arc::new(Endpoint::new(bus.clone(), delay)?)),
            Kind::Qemu => None,
        };
        let vtd = domain.as_ref().map(|domain| domain.vtd.clone());
        if let Some(domain) = &domain {
            domain.count_on(bus.clone());
        }
        let settings = Settings {
            costs: options.costs(),
            hostile: options.hostile,
            ..Settings::default()
        };
        let companion = (spec.companion && mode != Mode::Identity).then(|| {
            let name = format!("{}-companion", spec.name);
            let mut shared = Shared::new(&name, dart, settings);
            shared.translator = domain.map(|domain| Box::new(domain) as Box<dyn Translator>);
            Arc::new(shared)
        });
        Ok(Self {
            name: spec.name.clone(),
            device,
            bus,
            companion,
            companion_config: options.companion(spec.bdf),
            connections: Mutex::default(),
            closed: Condvar::new(),
            vtd,
        })
    }

    /// Handles the end of a connection. Mappings are dropped with the QEMU process, which has ended
    /// when neither device nor companion is connected: the last connection to end finds the device
    /// idle.
    fn closed(&self) {
        let mut connections = lock(&self.connections);
        connections.open -= 1;
        if connections.open == 0 {
            connections.epoch += 1;
            if let Some(companion) = &self.companion {
                companion.disconnected();
            }
            self.closed.notify_all();
            return;
        }
        // A process that ends closes both at once. The next QEMU must not connect before the end of
        // the other connection was noticed: it would inherit the mappings.
        let epoch = connections.epoch;
        let waited = self
            .closed
            .wait_timeout_while(connections, SIBLING_GRACE, |c| c.epoch == epoch);
        drop(waited);
    }

    fn stats(&self) -> PairStats {
        PairStats {
            kind: self.device.as_ref().map_or("qemu", |device| device.kind()),
            translated: self.vtd.as_ref().map(|vtd| vtd.is_on()),
            device: self.bus.counters.snapshot(),
            companion: self.companion.as_ref().map(|c| c.snapshot()),
        }
    }
}

/// Returns the pool of the DART of a device: its own, or that of the DART's name.
fn pool(
    spec: &Spec,
    options: &Options,
    mode: Mode,
    darts: &mut BTreeMap<String, NamedDart>,
) -> Result<Arc<Mutex<Pool>>> {
    let mut limits = options.limits();
    if mode != Mode::Dext {
        // There is no DART to ask for too much.
        (limits.panic_entries, limits.panic_bytes) = (u64::MAX, u64::MAX);
    }
    let (base, size) = (options.iova_base(), options.iova_size);
    let space = IovaSpace::new(base, size, options.placement)?;
    let pool = Arc::new(Mutex::new(Pool::new(limits, space)));
    let Some(name) = &spec.dart else {
        return Ok(pool);
    };
    let properties = (limits, base.0, size, options.placement);
    let named = darts
        .entry(name.clone())
        .or_insert_with(|| NamedDart { pool, properties });
    if named.properties != properties {
        bail!("other devices behind the DART {name} have another aperture or other limits");
    }
    Ok(named.pool.clone())
}

impl Mac {
    /// Creates the devices of the command line. No socket listens yet.
    pub fn new(cli: &Cli, events: Sender<Event>) -> Result<Arc<Self>> {
        let emulated = cli.devices.iter().filter(|spec| spec.kind == Kind::Qemu);
        let bdfs: Vec<u16> = emulated.map(|spec| spec.bdf).collect();
        if !bdfs.is_empty() && (cli.qtest.is_none() || !cli.once) {
            bail!("devices of QEMU need --qtest and --once");
        }
        let (vtd, parts) = Vtd::new(&bdfs)?;
        let mut parts = parts.into_iter();
        let mut names = BTreeSet::new();
        let mut pairs = Vec::new();
        let mut darts = BTreeMap::new();
        for spec in &cli.devices {
            let sockets = [spec.name.clone(), format!("{}-companion", spec.name)];
            for name in sockets {
                if name == "control" || !names.insert(name.clone()) {
                    bail!("device {}: {name}.sock is taken", spec.name);
                }
            }
            let part = match spec.kind {
                Kind::Qemu => parts.next(),
                _ => None,
            };
            let pair = Pair::new(spec, cli, &mut darts, part);
            let pair = pair.with_context(|| format!("device {}", spec.name))?;
            pairs.push(Arc::new(pair));
        }
        Ok(Arc::new(Self {
            pairs,
            darts,
            connections: AtomicUsize::new(0),
            events,
            sockets: Mutex::default(),
            vtd: (!bdfs.is_empty()).then_some(vtd),
        }))
    }

    /// Makes all sockets in `dir` listen.
    pub fn listen(self: &Arc<Self>, dir: &Path) -> Result<()> {
        if !dir.is_dir() {
            bail!("{} is no directory", dir.display());
        }
        for pair in &self.pairs {
            let mut ram = pair.bus.ram.clone();
            if let Some(device) = &pair.device {
                let managed = Managed {
                    device: device.clone(),
                    bus: pair.bus.clone(),
                };
                let identity = device.identity();
                self.start(dir, pair, &pair.name, &identity, ram, managed)?;
                ram = Arc::new(GuestRam::new());
            }
            if let Some(shared) = &pair.companion {
                let companion = Companion::new(shared.clone(), ram.clone(), pair.companion_config);
                let identity = companion::identity();
                self.start(dir, pair, &shared.name, &identity, ram, companion)?;
            }
        }
        let path = self.claim(dir, "control")?;
        let listener =
            UnixListener::bind(&path).with_context(|| format!("socket {}", path.display()))?;
        control::serve(self.clone(), listener)?;
        Ok(())
    }

    fn start<P: Port + 'static>(
        self: &Arc<Self>,
        dir: &Path,
        pair: &Arc<Pair>,
        name: &str,
        identity: &Identity,
        ram: Arc<GuestRam>,
        port: P,
    ) -> Result<()> {
        let path = self.claim(dir, name)?;
        let irqs = server::irqs(identity);
        let regions = server::regions(identity);
        let server = vfio_user::Server::new(&path, true, irqs, regions)
            .with_context(|| format!("socket {}", path.display()))?;
        let attendant = Attendant {
            mac: self.clone(),
            pair: pair.clone(),
        };
        let function = Function::new(identity, ram, port, Arc::new(attendant));
        let name = name.to_owned();
        thread::Builder::new()
            .name(name.clone())
            .spawn(move || function.serve(&name, &server))?;
        Ok(())
    }

    /// Returns the path of a socket, free to be bound.
    fn claim(&self, dir: &Path, name: &str) -> Result<PathBuf> {
        let path = dir.join(format!("{name}.sock"));
        let len = path.as_os_str().len();
        if len > MAX_SOCKET_PATH {
            bail!(
                "the path of a socket has at most {MAX_SOCKET_PATH} bytes, {} has {len}",
                path.display()
            );
        }
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.file_type().is_socket() => {
                fs::remove_file(&path).with_context(|| format!("stale {}", path.display()))?
            }
            Ok(_) => bail!("{} exists and is no socket", path.display()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => (),
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        }
        lock(&self.sockets).push(path.clone());
        Ok(path)
    }

    /// Connects to QEMU's qtest at `path` once it listens, if there are devices that QEMU emulates.
    pub fn connect_vtd(&self, path: &Path) -> Result<()> {
        if let Some(vtd) = &self.vtd {
            vtd.start(path).context("a thread for VT-d")?;
        }
        Ok(())
    }

    /// Turns the translation for devices of QEMU on, if it is off.
    pub fn turn_on_translation(&self) -> Result<(), String> {
        match &self.vtd {
            Some(vtd) => vtd.translate(),
            None => Err("there is no device of QEMU".into()),
        }
    }

    /// Waits for a reason to end.
    pub fn wait(&self, events: &Receiver<Event>, once: bool) {
        while let Ok(event) = events.recv() {
            if event == Event::Quit || once {
                return;
            }
        }
    }

    /// Requests the end.
    pub fn quit(&self) {
        let _ = self.events.send(Event::Quit);
    }

    /// Removes the sockets.
    pub fn remove_sockets(&self) {
        for path in lock(&self.sockets).drain(..) {
            let _ = fs::remove_file(path);
        }
    }

    /// Returns all current counters.
    pub fn stats(&self) -> Stats {
        if let Some(Err(error)) = self.vtd.as_ref().map(|vtd| vtd.look()) {
            log::debug!("VT-d: {error}");
        }
        Stats {
            devices: self
                .pairs
                .iter()
                .map(|pair| (pair.name.clone(), pair.stats()))
                .collect(),
            darts: self
                .darts
                .iter()
                .map(|(name, dart)| (name.clone(), lock(&dart.pool).amounts()))
                .collect(),
        }
    }

    /// Sets all counters to 0; mappings stay.
    pub fn clear_stats(&self) {
        for dart in self.darts.values() {
            lock(&dart.pool).clear_peaks();
        }
        for pair in &self.pairs {
            pair.bus.counters.clear();
            if let Some(companion) = &pair.companion {
                companion.clear();
            }
        }
    }
    /// Forgets the longest doorbells so far.
    pub fn clear_longest(&self) {
        for companion in self.pairs.iter().filter_map(|pair| pair.companion.as_ref()) {
            let mut stats = lock(&companion.stats);
            (stats.doorbell_ns_max, stats.modelled_ns_max) = (0, 0);
        }
    }
}
