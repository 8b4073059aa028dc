// SPDX-License-Identifier: GPL-2.0

//! Devices that remove memory from the guest without telling its drivers.

use crate::doctor::finding::Finding;
use crate::doctor::guest::Guest;

const DEVICES: &str = "/sys/bus/virtio/devices";

/// The virtio device ID of virtio-mem.
const MEM: &str = "0x0018";

/// `memory-devices`
pub fn devices(guest: &Guest) -> Vec<Finding> {
    if guest.managed().next().is_none() {
        return Vec::new();
    }
    let names = guest.system.names(DEVICES);
    let is_mem = |name: &&String| {
        let id = guest.system.line(&format!("{DEVICES}/{name}/device"));
        id.as_deref() == Some(MEM)
    };
    let found: Vec<_> = names.iter().filter(is_mem).map(String::as_str).collect();
    vec![if found.is_empty() {
        Finding::ok("no device removes memory in pieces")
    } else {
        Finding::warning(
            format!(
                "virtio-mem ({}) removes memory in pieces that the module is not told of, and \
                 that stay mapped",
                found.join(", ")
            ),
            "add and remove memory by modules (-device pc-dimm), or load the module with strict=1",
        )
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::Fixture;

    #[test]
    fn devices_that_take_memory() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&devices(&fixture.guest()));
        fixture.write("sys/bus/virtio/devices/virtio3/device", "0x0005\n");
        Fixture::is_ok(&devices(&fixture.guest()));
        fixture.write("sys/bus/virtio/devices/virtio4/device", "0x0018\n");
        Fixture::is_warning(&devices(&fixture.guest()), "virtio-mem (virtio4)");
    }
}
