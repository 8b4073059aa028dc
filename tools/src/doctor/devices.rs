// SPDX-License-Identifier: GPL-2.0

//! Companions and managed devices: their presence, bus and drivers.

use crate::doctor::finding::Finding;
use crate::doctor::guest::{
    underscores,
    Companion,
    Guest,
    COMPANION,
    MODULE, //
};
use crate::doctor::predecessor;

const DRIVERS: &str = "/sys/bus/pci/drivers";

/// Returns whether a driver leaves DMA to programs. `rust/device/user_space.rs` warns of these, and
/// of pci-stub.
fn is_for_user_space(driver: &str) -> bool {
    let vfio = ["vfio-pci", "vfio_pci"];
    ["uio_pci_generic", "igb_uio"].contains(&driver) || vfio.iter().any(|end| driver.ends_with(end))
}

/// Returns the companions that the module drives.
fn ours(guest: &Guest) -> impl Iterator<Item = (&Companion, &str)> {
    guest
        .companions
        .iter()
        .filter(|companion| companion.is_ours())
        .filter_map(|companion| Some((companion, companion.managed.as_deref()?)))
}

/// Returns bridges whose bus has no number, so that devices behind them are not found.
fn unnumbered(guest: &Guest) -> Vec<String> {
    let devices = guest.system.names("/sys/bus/pci/devices");
    devices
        .into_iter()
        .filter(|address| {
            let bus = guest
                .system
                .line(&guest.device(address, "secondary_bus_number"));
            bus.as_deref() == Some("0")
        })
        .collect()
}

/// `companion`
pub fn companion(guest: &Guest) -> Vec<Finding> {
    let all: Vec<_> = guest
        .companions
        .iter()
        .map(|companion| &*companion.address)
        .collect();
    vec![if all.is_empty() {
        Finding::problem(
            format!(
                "there is no companion: no PCI device {}:{}",
                COMPANION.0.trim_start_matches("0x"),
                COMPANION.1.trim_start_matches("0x")
            ),
            "start a QEMU that has it with '-device apple-dma-pci' for each passed-through device; \
             if it did, see bus-numbers",
        )
    } else {
        Finding::ok(format!("companions are present: {}", all.join(", ")))
    }]
}

/// `companion-driver`
pub fn companion_driver(guest: &Guest) -> Vec<Finding> {
    guest
        .companions
        .iter()
        .map(|companion| {
            let address = &companion.address;
            let chosen = guest.system.line(&guest.device(address, "driver_override"));
            let chosen = chosen.filter(|name| !name.is_empty() && name != "(null)");
            match (&companion.driver, chosen) {
                (Some(driver), _) if driver == MODULE => {
                    Finding::ok(format!("companion {address} has its driver"))
                }
                (Some(driver), _) if underscores(driver) == predecessor::NAME => Finding::problem(
                    format!("companion {address} has the driver {driver}, not {MODULE}"),
                    "see other-module: unbound now, it would have the companion again after the \
                     next boot",
                ),
                (Some(driver), _) => Finding::problem(
                    format!("companion {address} has the driver {driver}, not {MODULE}"),
                    format!(
                        "echo {address} >{DRIVERS}/{driver}/unbind; echo {address} \
                         >{DRIVERS}/{MODULE}/bind"
                    ),
                ),
                (None, Some(chosen)) if underscores(&chosen) != MODULE => Finding::problem(
                    format!("companion {address} has no driver, and is reserved for {chosen}"),
                    format!("echo >/sys/bus/pci/devices/{address}/driver_override, then bind it"),
                ),
                (None, _) if guest.is_loaded() => Finding::problem(
                    format!("companion {address} has no driver, though the module is loaded"),
                    format!(
                        "see log for the reason; if it was unbound by hand: echo {address} \
                         >{DRIVERS}/{MODULE}/bind binds it again"
                    ),
                ),
                (None, _) => Finding::problem(
                    format!("companion {address} has no driver"),
                    "load the module, see module-loaded",
                ),
            }
        })
        .collect()
}

/// `managed-device`
pub fn managed(guest: &Guest) -> Vec<Finding> {
    let mut found = Vec::new();
    for (companion, managed) in ours(guest) {
        let address = &companion.address;
        if !guest.system.exists(&guest.device(managed, "vendor")) {
            found.push(Finding::problem(
                format!("companion {address} manages {managed}, but there is no device"),
                "start QEMU with the device on the companion's bus, before it; or, if it was \
                 removed here: echo 1 >/sys/bus/pci/rescan",
            ));
            continue;
        }
        found.push(match guest.driver(managed) {
            Some(driver) if is_for_user_space(&driver) => Finding::problem(
                format!(
                    "managed device {managed} has the driver {driver}: programs that have it do \
                     DMA by guest-physical addresses, which are not mapped; that may bring the Mac \
                     down"
                ),
                format!("echo {managed} >{DRIVERS}/{driver}/unbind"),
            ),
            Some(driver) if driver == "pci-stub" => Finding::warning(
                format!("managed device {managed} has the driver {driver}, which excludes others"),
                format!("echo {managed} >{DRIVERS}/{driver}/unbind, unless that is wanted"),
            ),
            Some(driver) => {
                Finding::ok(format!("managed device {managed} has the driver {driver}"))
            }
            None => without_driver(guest, managed),
        });
    }
    found
}

/// Returns the reason why a device has no driver.
fn without_driver(guest: &Guest, managed: &str) -> Finding {
    let found = format!("managed device {managed} has no driver");
    let candidates: Vec<_> = guest.candidates(managed).into_iter().collect();
    let is_there = |module: &&String| {
        guest.is_built_in(module)
            || guest
                .system
                .exists(&format!("/sys/module/{}", underscores(module)))
    };
    match (&candidates[..], candidates.iter().find(is_there)) {
        ([], _) => Finding::problem(
            format!(
                "{found}, and no module of kernel {} is for it",
                guest.release
            ),
            format!("lspci -nn -s {managed} identifies it; install its driver"),
        ),
        (_, Some(driver)) => Finding::problem(
            format!("{found}: {driver} is loaded, but failed or was unbound"),
            format!(
                "dmesg | grep {managed} has the reason; then: \
                 echo {managed} >/sys/bus/pci/drivers_probe"
            ),
        ),
        ([first, ..], None) => Finding::problem(
            format!("{found}: {} is not loaded", candidates.join(" or ")),
            format!("modprobe {first}"),
        ),
    }
}

/// `dart`
pub fn dart(guest: &Guest) -> Vec<Finding> {
    ours(guest)
        .filter_map(|(companion, managed)| {
            let file = guest.device(&companion.address, "apple_dma_pci/mode");
            let mode = guest.system.line(&file)?;
            Some(if mode == "identity" {
                Finding::warning(
                    format!("the host has no DART for {managed}: it uses guest-physical addresses"),
                    "if this is a Mac with a passed-through device, have the DriverKit extension \
                     loaded and approved, and restart QEMU",
                )
            } else {
                Finding::ok(format!(
                    "the DART assigns {managed}'s addresses, in {mode} mode"
                ))
            })
        })
        .collect()
}

/// `guest-iommu`
pub fn iommu(guest: &Guest) -> Vec<Finding> {
    let mut found = Vec::new();
    for companion in &guest.companions {
        let address = &companion.address;
        let group = guest
            .system
            .link_name(&guest.device(address, "iommu_group"));
        // A domain without an IOMMU, for access without protection.
        let name = group.and_then(|group| {
            let name = format!("/sys/kernel/iommu_groups/{group}/name");
            Some(guest.system.line(&name).unwrap_or_default()).filter(|name| name != "vfio-noiommu")
        });
        if name.is_some() {
            found.push(Finding::problem(
                format!("the guest has an IOMMU for companion {address}: the module cannot work"),
                "start QEMU without a virtual IOMMU: no '-device virtio-iommu-pci' or \
                 'intel-iommu', no 'iommu=smmuv3'",
            ));
        }
    }
    if found.is_empty() && !guest.companions.is_empty() {
        found.push(Finding::ok("the guest has no IOMMU for a companion"));
    }
    found
}

/// Returns the bus of a PCI address, with its domain.
fn bus(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(bus, _)| bus)
}

/// `bus-numbers`
pub fn bus_numbers(guest: &Guest) -> Vec<Finding> {
    let mut found = Vec::new();
    for bridge in unnumbered(guest) {
        found.push(Finding::problem(
            format!("bridge {bridge} has no bus number: devices behind it are not found"),
            "start the guest by firmware that numbers buses, as UEFI does, or with \
             pci=assign-busses on the kernel's command line",
        ));
    }
    let renumbered = guest.options("pci").any(|options| {
        let mut options = options.split(',');
        options.any(|option| option == "assign-busses")
    });
    if renumbered {
        found.push(Finding::warning(
            "pci=assign-busses: the kernel numbers buses again, unlike firmware and QEMU",
            "none if the devices are present: the module searches the companion's own bus; else \
             leave it out",
        ));
    }
    for (companion, managed) in ours(guest) {
        if bus(managed) != bus(&companion.address) {
            found.push(Finding::warning(
                format!(
                    "companion {} manages {managed}, on another bus",
                    companion.address
                ),
                "none if that is its device; else start QEMU with both on one bus, or name the \
                 device by the parameter managed",
            ));
        }
    }
    if found.is_empty() {
        let mut buses: Vec<_> = guest
            .companions
            .iter()
            .map(|one| bus(&one.address))
            .collect();
        buses.dedup();
        if !buses.is_empty() {
            found.push(Finding::ok(format!(
                "companions are on bus {}, as are their devices",
                buses.join(", ")
            )));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::{
        Fixture,
        RELEASE, //
    };

    #[test]
    fn the_companion_is_that_of_the_wire() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../uapi/apple_dma_pci.h");
        let text = std::fs::read_to_string(path).unwrap();
        for (name, id) in [("VENDOR_ID", COMPANION.0), ("DEVICE_ID", COMPANION.1)] {
            let line = format!("#define APPLE_DMA_PCI_{name}\t\t{id}");
            assert!(text.contains(&line), "{line}");
        }
    }

    #[test]
    fn companions() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&companion(&fixture.guest()));
        fixture.write(&fixture.companion("device"), "0x0016\n");
        Fixture::is_problem(&companion(&fixture.guest()), "no PCI device 1b36:0015");
    }

    #[test]
    fn drivers_of_companions() {
        let fixture = Fixture::healthy();
        let driver = fixture.companion("driver");
        let chosen = fixture.companion("driver_override");
        fixture.write(&chosen, "(null)\n");
        Fixture::is_ok(&companion_driver(&fixture.guest()));
        fixture.remove(&driver);
        Fixture::is_problem(
            &companion_driver(&fixture.guest()),
            "though the module is loaded",
        );
        fixture.write(&chosen, "vfio-pci\n");
        Fixture::is_problem(
            &companion_driver(&fixture.guest()),
            "is reserved for vfio-pci",
        );
        fixture.link(&driver, "../../../bus/pci/drivers/vfio-pci");
        Fixture::is_problem(
            &companion_driver(&fixture.guest()),
            "has the driver vfio-pci",
        );
        fixture.remove(&chosen);
        fixture.remove(&driver);
        fixture.link(&driver, "../../../bus/pci/drivers/apple_dma");
        let findings = companion_driver(&fixture.guest());
        Fixture::is_problem(&findings, "has the driver apple_dma, not apple_dma_pci");
        assert!(findings[0]
            .advice
            .as_ref()
            .unwrap()
            .contains("see other-module"));
        fixture.remove(&driver);
        fixture.unload();
        Fixture::is_problem(
            &companion_driver(&fixture.guest()),
            "0000:00:10.0 has no driver",
        );
    }

    #[test]
    fn managed_devices() {
        let fixture = Fixture::healthy();
        let driver = fixture.managed("driver");
        Fixture::is_ok(&managed(&fixture.guest()));
        fixture.remove(&driver);
        fixture.link(&driver, "../../../bus/pci/drivers/vfio-pci");
        Fixture::is_problem(&managed(&fixture.guest()), "by guest-physical addresses");
        fixture.remove(&driver);
        fixture.link(&driver, "../../../bus/pci/drivers/mlx5_vfio_pci");
        Fixture::is_problem(&managed(&fixture.guest()), "by guest-physical addresses");
        fixture.remove(&driver);
        fixture.link(&driver, "../../../bus/pci/drivers/pci-stub");
        Fixture::is_warning(&managed(&fixture.guest()), "pci-stub");
        fixture.remove(&driver);
        Fixture::is_problem(&managed(&fixture.guest()), "nvme is loaded, but failed");
        fixture.remove("sys/module/nvme");
        Fixture::is_problem(&managed(&fixture.guest()), "nvme is not loaded");
        let aliases = format!("lib/modules/{RELEASE}/modules.alias");
        fixture.write(&aliases, "alias pci:v*d*sv*sd*bc01sc06i01* ahci\n");
        Fixture::is_problem(&managed(&fixture.guest()), "no module of kernel");
        fixture.remove(&fixture.managed(""));
        Fixture::is_problem(&managed(&fixture.guest()), "there is no device");
    }

    #[test]
    fn hosts_without_a_dart() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&dart(&fixture.guest()));
        fixture.write(&fixture.companion("apple_dma_pci/mode"), "identity\n");
        Fixture::is_warning(&dart(&fixture.guest()), "has no DART for 0000:00:05.0");
    }

    #[test]
    fn iommus() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&iommu(&fixture.guest()));
        let group = fixture.companion("iommu_group");
        fixture.link(&group, "../../../kernel/iommu_groups/3");
        Fixture::is_problem(
            &iommu(&fixture.guest()),
            "has an IOMMU for companion 0000:00:10.0",
        );
        fixture.write("sys/kernel/iommu_groups/3/name", "vfio-noiommu\n");
        Fixture::is_ok(&iommu(&fixture.guest()));
    }

    #[test]
    fn numbers_of_buses() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&bus_numbers(&fixture.guest()));
        let bridge = "sys/bus/pci/devices/0000:00:02.0/secondary_bus_number";
        fixture.write(bridge, "1\n");
        Fixture::is_ok(&bus_numbers(&fixture.guest()));
        fixture.write(bridge, "0\n");
        Fixture::is_problem(
            &bus_numbers(&fixture.guest()),
            "0000:00:02.0 has no bus number",
        );
        fixture.remove(bridge);
        fixture.write("proc/cmdline", "ro pci=noacpi,assign-busses\n");
        Fixture::is_warning(&bus_numbers(&fixture.guest()), "numbers buses again");
        fixture.write("proc/cmdline", "ro\n");
        fixture.write(
            &fixture.companion("apple_dma_pci/managed"),
            "0000:01:05.0\n",
        );
        Fixture::is_warning(&bus_numbers(&fixture.guest()), "on another bus");
    }
}
