// SPDX-License-Identifier: GPL-2.0

//! vfio-user: PCI functions on sockets, each with one thread and one QEMU at a time.
//!
//! This file is common to companions and managed devices; [`Port`] hides the differences.

use crate::addr::Gpa;
use crate::bus::Bus;
use crate::companion::Companion;
use crate::device::Device;
use crate::irq::Msix;
use crate::memory::GuestRam;
use crate::pci::{
    ConfigReads,
    ConfigSpace,
    Identity, //
};
use crate::sync::lock;
use std::{
    fs::File,
    io,
    sync::Arc, //
};
use vfio_bindings::bindings::vfio::*;
use vfio_user::{
    DmaMapFlags,
    DmaUnmapFlags,
    IrqInfo,
    ServerBackend,
    ServerRegion, //
};

/// The device behind a function's configuration space.
pub trait Port: Send {
    /// Reads from a BAR.
    fn read(&mut self, bar: u8, offset: u64, data: &mut [u8]);
    /// Writes to a BAR.
    fn write(&mut self, bar: u8, offset: u64, data: &[u8]);
    /// Handles a change of bus mastering.
    fn set_master(&mut self, on: bool);
    /// Handles a function-level reset, or a reset of the guest's machine.
    fn reset(&mut self);
    /// Handles a connection or disconnection of QEMU.
    fn set_up(&mut self, _up: bool) {}
    /// Returns what the configuration space reads as.
    fn config_reads(&self) -> ConfigReads {
        ConfigReads::True
    }
    /// Returns the interrupts by their VFIO index, for functions that have them.
    fn interrupts(&self, _index: u32) -> Option<&Msix> {
        None
    }
}

impl Port for Companion {
    fn read(&mut self, _bar: u8, offset: u64, data: &mut [u8]) {
        Self::read(self, offset, data);
    }

    fn write(&mut self, _bar: u8, offset: u64, data: &[u8]) {
        Self::write(self, offset, data);
    }

    fn set_master(&mut self, on: bool) {
        Self::set_master(self, on);
    }

    fn reset(&mut self) {
        Self::reset(self);
    }
}

/// A managed device and its bus.
pub struct Managed {
    /// The device.
    pub device: Arc<dyn Device>,
    /// The device's bus.
    pub bus: Arc<Bus>,
}

impl Port for Managed {
    fn read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        self.device.read(bar, offset, data);
    }

    fn write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        self.device.write(bar, offset, data);
    }

    fn set_master(&mut self, on: bool) {
        self.bus.set_master(on);
    }

    fn reset(&mut self) {
        crate::stats::count(&self.bus.counters.resets, 1);
        self.device.reset();
        for interrupts in self.bus.interrupts() {
            interrupts.clear_pending();
        }
    }

    fn set_up(&mut self, up: bool) {
        self.bus.set_up(up);
        if !up {
            self.device.reset();
            self.bus.set_master(false);
            for interrupts in self.bus.interrupts() {
                interrupts.disconnect();
            }
        }
    }

    fn config_reads(&self) -> ConfigReads {
        *lock(&self.bus.config)
    }

    fn interrupts(&self, index: u32) -> Option<&Msix> {
        match index {
            VFIO_PCI_MSIX_IRQ_INDEX => Some(&self.bus.msix),
            VFIO_PCI_MSI_IRQ_INDEX => Some(&self.bus.msi),
            VFIO_PCI_INTX_IRQ_INDEX => Some(&self.bus.intx),
            _ => None,
        }
    }
}

/// A receiver of reports about connections.
pub trait Watcher: Send + Sync {
    /// Handles the first use of a connection.
    fn opened(&self);
    /// Handles the end of a connection; the function is idle.
    fn closed(&self);
}

/// A PCI function on a socket.
pub struct Function<P> {
    config: ConfigSpace,
    ram: Arc<GuestRam>,
    port: P,
    watcher: Arc<dyn Watcher>,
    open: bool,
}

impl<P: Port> Function<P> {
    /// Creates a function without a connection.
    pub fn new(
        identity: &Identity,
        ram: Arc<GuestRam>,
        port: P,
        watcher: Arc<dyn Watcher>,
    ) -> Self {
        Self {
            config: ConfigSpace::new(identity),
            ram,
            port,
            watcher,
            open: false,
        }
    }

    /// Serves one QEMU after the other. Returns only when the socket fails.
    pub fn serve(mut self, name: &str, server: &vfio_user::Server) {
        loop {
            match server.run(&mut self) {
                Ok(()) => log::info!("{name}: QEMU has disconnected"),
                Err(vfio_user::Error::SocketAccept(e)) => {
                    log::error!("{name}: cannot accept: {e}");
                    return;
                }
                Err(e) => log::warn!("{name}: connection lost: {e}"),
            }
            self.close();
        }
    }

    fn open(&mut self) {
        if !self.open {
            self.open = true;
            self.port.set_up(true);
            self.watcher.opened();
        }
    }

    fn close(&mut self) {
        if self.open {
            self.open = false;
            self.port.set_up(false);
            self.port.set_master(false);
            self.config.reset();
            self.ram.clear();
            self.watcher.closed();
        }
    }

    fn reset_function(&mut self) {
        self.port.reset();
        self.config.reset();
        self.port.set_master(false);
    }
}

impl<P: Port> ServerBackend for Function<P> {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.open();
        log::trace!("read region {region} + {offset:#x}, {} bytes", data.len());
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => {
                self.config.read(offset, data, self.port.config_reads())
            }
            VFIO_PCI_BAR0_REGION_INDEX..=VFIO_PCI_BAR5_REGION_INDEX => {
                self.port.read(region as u8, offset, data)
            }
            _ => data.fill(0xff),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        self.open();
        log::trace!("write region {region} + {offset:#x}: {data:x?}");
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => {
                let effects = self.config.write(offset, data);
                if effects.flr {
                    self.reset_function();
                } else {
                    self.port.set_master(self.config.master());
                }
            }
            VFIO_PCI_BAR0_REGION_INDEX..=VFIO_PCI_BAR5_REGION_INDEX => {
                self.port.write(region as u8, offset, data)
            }
            _ => (),
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        self.open();
        log::debug!("dma_map {address:#x}+{size:#x} {flags:?} file {fd:?}+{offset:#x}");
        // Without a file there is nothing to map; without write access the range is ROM. A device
        // finds no RAM there.
        match fd {
            Some(file) if flags.contains(DmaMapFlags::READ_WRITE) => {
                self.ram.add(Gpa(address), size, file, offset)
            }
            _ => Ok(()),
        }
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        log::debug!("dma_unmap {address:#x}+{size:#x} {flags:?}");
        match flags.contains(DmaUnmapFlags::UNMAP_ALL) {
            true => self.ram.clear(),
            false => self.ram.remove(Gpa(address), size),
        }
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.open();
        self.reset_function();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        let Some(interrupts) = self.port.interrupts(index) else {
            return Ok(());
        };
        if flags & VFIO_IRQ_SET_ACTION_TRIGGER == 0 {
            return Ok(());
        }
        let last = start
            .saturating_add(count)
            .min(u32::from(interrupts.count()));
        if flags & VFIO_IRQ_SET_DATA_EVENTFD != 0 {
            let mut fds = fds.into_iter();
            for vector in start..last {
                interrupts.connect(vector, fds.next());
            }
        } else if count == 0 {
            interrupts.disconnect();
        } else {
            for vector in start..last {
                interrupts.raise(vector as u16);
            }
        }
        Ok(())
    }
}

/// Returns the interrupts of a function, as vfio-user announces them.
pub fn irqs(identity: &Identity) -> Vec<IrqInfo> {
    let vectors = identity.msix.map_or(0, |msix| msix.vectors);
    (0..VFIO_PCI_NUM_IRQS)
        .map(|index| IrqInfo {
            index,
            flags: VFIO_IRQ_INFO_EVENTFD,
            count: match index {
                VFIO_PCI_MSIX_IRQ_INDEX => u32::from(vectors),
                VFIO_PCI_MSI_IRQ_INDEX => u32::from(identity.msi),
                VFIO_PCI_INTX_IRQ_INDEX => u32::from(identity.msi != 0),
                // QEMU warns about functions that cannot report errors. This one can, and never
                // does.
                VFIO_PCI_ERR_IRQ_INDEX => 1,
                _ => 0,
            },
        })
        .collect()
}

/// Returns the regions of a function, as vfio-user announces them.
pub fn regions(identity: &Identity) -> Vec<ServerRegion> {
    let config_size = ConfigSpace::new(identity).size() as u64;
    (0..VFIO_PCI_NUM_REGIONS)
        .map(|index| {
            let bar = identity.bars.iter().find(|b| u32::from(b.index) == index);
            let size = match index {
                VFIO_PCI_CONFIG_REGION_INDEX => config_size,
                _ => bar.map_or(0, |bar| bar.size),
            };
            ServerRegion {
                region_info: vfio_region_info {
                    argsz: std::mem::size_of::<vfio_region_info>() as u32,
                    flags: match size {
                        0 => 0,
                        _ => VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
                    },
                    index,
                    size,
                    ..Default::default()
                },
                sparse_areas: Vec::new(),
                mmap_fd: None,
            }
        })
        .collect()
}
