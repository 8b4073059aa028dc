// SPDX-License-Identifier: GPL-2.0

//! The checks of the order at boot: the module before the drivers of managed devices, and in the
//! initial root file system.

use crate::doctor::finding::Finding;
use crate::doctor::guest::{
    underscores,
    Guest,
    MODULE, //
};
use crate::doctor::module;
use std::collections::BTreeSet;

/// Returns the drivers that managed devices have or could have.
fn drivers(guest: &Guest) -> BTreeSet<String> {
    guest
        .managed()
        .flat_map(|managed| {
            let link = guest.device(managed, "driver/module");
            match guest.system.link_name(&link) {
                Some(module) => BTreeSet::from([module]),
                None => guest.candidates(managed),
            }
        })
        .map(|module| underscores(&module))
        .collect()
}

/// Returns the drivers before which modprobe(8) loads the module.
fn ordered(guest: &Guest) -> BTreeSet<String> {
    let mut ordered = BTreeSet::new();
    for line in &guest.modprobe {
        if let [word, driver, rest @ ..] = &line[..] {
            let before = rest.iter().skip_while(|word| *word != "pre:").skip(1);
            let mut before = before.take_while(|word| *word != "post:");
            if word == "softdep" && before.any(|name| underscores(name) == MODULE) {
                ordered.insert(underscores(driver));
            }
        }
    }
    ordered
}

/// `driver-order`
pub fn order(guest: &Guest) -> Vec<Finding> {
    let ordered = ordered(guest);
    if ordered.is_empty() {
        return vec![Finding::warning(
            "modprobe.d has no order for the module: drivers may probe their devices before it",
            "install the package apple-dma-pci-dkms again, or run 'make install': both bring \
             apple-dma-pci.conf; then rebuild the initial root file system",
        )];
    }
    let found: Vec<_> = drivers(guest)
        .difference(&ordered)
        .filter(|driver| !guest.is_built_in(driver))
        .map(|driver| {
            Finding::warning(
                format!("modprobe.d has no order of the module before {driver}"),
                format!(
                    "echo 'softdep {driver} pre: apple_dma_pci' \
                     >/etc/modprobe.d/{driver}-dma.conf, then rebuild the initial root file \
                     system"
                ),
            )
        })
        .collect();
    if found.is_empty() {
        return vec![Finding::ok(
            "the module is loaded before its devices' drivers",
        )];
    }
    found
}

/// `driver-built-in`
pub fn built_in(guest: &Guest) -> Vec<Finding> {
    let found: Vec<_> = drivers(guest)
        .iter()
        .filter(|driver| guest.is_built_in(driver))
        .map(|driver| {
            let patience = if driver == "nvme" {
                "; nvme_core.admin_timeout=5 on the kernel's command line shortens its timeout"
            } else {
                ""
            };
            Finding::warning(
                format!(
                    "{driver} is built into the kernel: it probes its device before the module \
                     is there, and again when it is"
                ),
                format!("boot a kernel that has {driver} as a module{patience}"),
            )
        })
        .collect();
    if found.is_empty() && guest.managed().next().is_some() {
        return vec![Finding::ok("no managed device's driver is built in")];
    }
    found
}

/// Returns whether the root file system is on a managed device, as far as that is known.
fn root_is_managed(guest: &Guest) -> bool {
    let mounts = guest
        .system
        .text("/proc/self/mountinfo")
        .unwrap_or_default();
    let roots = mounts.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        (fields.get(4) == Some(&"/")).then(|| fields.get(2).copied())?
    });
    roots
        .filter_map(|number| guest.system.link(&format!("/sys/dev/block/{number}")))
        .any(|device| {
            guest
                .managed()
                .any(|managed| device.split('/').any(|part| part == managed))
        })
}

/// A program that makes initial root file systems.
struct Generator {
    /// Path of the program.
    program: &'static str,
    /// Program that lists what is in an image.
    list: &'static str,
    /// Command that makes the image of a kernel anew.
    command: fn(release: &str, package: Option<&str>) -> String,
}

/// The generators, in the order in which the kernels' packages choose among them.
const GENERATORS: &[Generator] = &[
    Generator {
        program: "/usr/sbin/update-initramfs",
        list: "lsinitramfs",
        command: |release, _| format!("update-initramfs -u -k {release}"),
    },
    Generator {
        program: "/usr/bin/mkinitcpio",
        list: "lsinitcpio",
        command: |release, package| match package {
            Some(package) => format!("mkinitcpio -p {package}"),
            None => format!("mkinitcpio -k {release}"),
        },
    },
    Generator {
        program: "/usr/bin/dracut",
        list: "lsinitrd",
        command: |release, _| format!("dracut --force --kver {release}"),
    },
];

/// Returns Arch's name of the package of the running kernel, which its images are named after.
fn kernel_package(guest: &Guest) -> Option<String> {
    guest.system.line(&guest.modules("pkgbase"))
}

/// Returns the command that makes the initial root file system anew, of the generator that is
/// there, or of all.
fn generate(guest: &Guest) -> String {
    let package = kernel_package(guest);
    let command = |generator: &Generator| (generator.command)(&guest.release, package.as_deref());
    let present = |generator: &&Generator| guest.system.exists(generator.program);
    match GENERATORS.iter().find(present) {
        Some(generator) => command(generator),
        None => GENERATORS
            .iter()
            .map(command)
            .collect::<Vec<_>>()
            .join(", or: "),
    }
}

/// Returns the places in which generators and kernel-install(8) put the running kernel's image.
fn images(guest: &Guest) -> Vec<String> {
    let release = &guest.release;
    let mut images = vec![
        format!("/boot/initrd.img-{release}"),
        format!("/boot/initramfs-{release}.img"),
        format!("/boot/initrd-{release}"),
    ];
    if let Some(package) = kernel_package(guest) {
        images.push(format!("/boot/initramfs-{package}.img"));
    }
    if let Some(machine) = guest.system.line("/etc/machine-id") {
        for place in ["/boot", "/efi", "/boot/efi"] {
            images.push(format!("{place}/{machine}/{release}/initrd"));
        }
    }
    images
}

/// `initramfs`
pub fn initramfs(guest: &Guest) -> Vec<Finding> {
    let release = &guest.release;
    let images = images(guest);
    let Some(image) = images.iter().find(|image| guest.system.exists(image)) else {
        return vec![Finding::unknown(
            format!("there is no initial root file system of kernel {release} in /boot"),
            "if the root file system is on a passed-through device there must be one with the \
             module",
        )];
    };
    let again = generate(guest);
    let listed = GENERATORS
        .iter()
        .filter_map(|generator| guest.system.run(generator.list, &[image]))
        .find(|output| output.success);
    let Some(listed) = listed else {
        return vec![Finding::unknown(
            format!("{image} cannot be inspected"),
            "run this as root, in the system itself, with lsinitramfs, lsinitrd or lsinitcpio",
        )];
    };
    let file = module::file(guest);
    let changed = |path: &str| guest.system.changed(path);
    // dracut prints a line of ls -l.
    let names = listed
        .text
        .lines()
        .filter_map(|line| line.split_whitespace().last());
    let mut names = names.filter_map(|path| path.rsplit('/').next());
    vec![
        if !names.any(|name| underscores(name).starts_with("apple_dma_pci.ko")) {
            if root_is_managed(guest) {
                Finding::problem(
                    format!("{image} does not have the module, and the root file system needs it"),
                    again,
                )
            } else {
                Finding::warning(
                    format!("{image} does not have the module: drivers there have no DMA yet"),
                    again,
                )
            }
        } else if file.and_then(|file| changed(&file)) > changed(image) {
            Finding::warning(
                format!("{image} is older than the installed module: it has an older one"),
                again,
            )
        } else {
            Finding::ok(format!("{image} has the module"))
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::{
        Fixture,
        RELEASE, //
    };

    const CONF: &str = "lib/modprobe.d/apple-dma-pci.conf";

    #[test]
    fn orders() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&order(&fixture.guest()));
        fixture.write(CONF, "softdep nvme pre: other post: apple_dma_pci\n");
        Fixture::is_warning(&order(&fixture.guest()), "no order for the module");
        fixture.write(CONF, "softdep nvme pre: other apple-dma-pci post: x\n");
        Fixture::is_ok(&order(&fixture.guest()));
        fixture.write(CONF, "softdep igb pre: apple_dma_pci\n");
        Fixture::is_warning(&order(&fixture.guest()), "order of the module before nvme");
        fixture.remove(CONF);
        Fixture::is_warning(&order(&fixture.guest()), "no order for the module");
    }

    #[test]
    fn the_order_of_a_device_without_driver() {
        let fixture = Fixture::healthy();
        fixture.remove(&fixture.managed("driver"));
        Fixture::is_ok(&order(&fixture.guest()));
        fixture.write(CONF, "softdep igb pre: apple_dma_pci\n");
        Fixture::is_warning(&order(&fixture.guest()), "order of the module before nvme");
    }

    #[test]
    fn drivers_that_are_built_in() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&built_in(&fixture.guest()));
        let path = format!("lib/modules/{RELEASE}/modules.builtin");
        fixture.write(&path, "kernel/drivers/nvme/host/nvme.ko\n");
        Fixture::is_warning(&built_in(&fixture.guest()), "nvme is built into");
        // The module cannot be loaded later then.
        fixture.write(CONF, "softdep igb pre: apple_dma_pci\n");
        Fixture::is_ok(&order(&fixture.guest()));
        // The companion is known by its alias, too.
        fixture.remove(&fixture.managed("driver"));
        fixture.write(&format!("lib/modules/{RELEASE}/modules.alias"), "");
        assert!(drivers(&fixture.guest()).is_empty());
        fixture.write(
            &format!("lib/modules/{RELEASE}/modules.builtin.modinfo"),
            "nvme.license=GPL\0nvme.alias=pci:v*d*sv*sd*bc01sc08i02*\0",
        );
        Fixture::is_warning(&built_in(&fixture.guest()), "nvme is built into");
    }

    #[test]
    fn initial_root_file_systems() {
        let image = format!("/boot/initrd.img-{RELEASE}");
        let mut fixture = Fixture::healthy();
        Fixture::is_ok(&initramfs(&fixture.guest()));
        fixture.make_newer(&format!(
            "lib/modules/{RELEASE}/updates/dkms/apple_dma_pci.ko"
        ));
        Fixture::is_warning(&initramfs(&fixture.guest()), "it has an older one");

        fixture.prints(
            &format!("lsinitramfs {image}"),
            "usr/lib/modules/x/nvme.ko.xz\n",
        );
        Fixture::is_warning(&initramfs(&fixture.guest()), "does not have the module");
        fixture.write(
            "proc/self/mountinfo",
            "22 1 259:2 / / rw,relatime - ext4 /dev/nvme0n1p2 rw\n",
        );
        Fixture::is_problem(
            &initramfs(&fixture.guest()),
            "the root file system needs it",
        );

        fixture.prints(&format!("lsinitramfs {image}"), "");
        Fixture::is_unknown(&initramfs(&fixture.guest()), "cannot be inspected");
        fixture.prints(
            &format!("lsinitrd {image}"),
            "-rw-r--r-- 1 root root 9 Jan 1 1970 usr/lib/modules/x/apple_dma_pci.ko.xz\n",
        );
        fixture.make_newer(&image[1..]);
        Fixture::is_ok(&initramfs(&fixture.guest()));

        fixture.remove(&image[1..]);
        Fixture::is_unknown(&initramfs(&fixture.guest()), "there is no initial root");
        fixture.write(&format!("boot/initramfs-{RELEASE}.img"), "");
        Fixture::is_unknown(&initramfs(&fixture.guest()), "cannot be inspected");
    }

    /// Returns the advice of the only finding, for a module that is newer than the image.
    fn advice(fixture: &Fixture) -> String {
        let findings = initramfs(&fixture.guest());
        Fixture::is_warning(&findings, "it has an older one");
        findings[0].advice.clone().unwrap()
    }

    #[test]
    fn generators() {
        let module = format!("lib/modules/{RELEASE}/updates/dkms/apple_dma_pci.ko");
        let fixture = Fixture::healthy();
        fixture.make_newer(&module);
        let all = advice(&fixture);
        assert!(all.contains("update-initramfs -u -k"), "{all}");
        assert!(all.contains("dracut --force --kver"), "{all}");
        assert!(all.contains("mkinitcpio -k"), "{all}");
        for (program, command) in [
            ("dracut", format!("dracut --force --kver {RELEASE}")),
            ("mkinitcpio", format!("mkinitcpio -k {RELEASE}")),
        ] {
            fixture.write(&format!("usr/bin/{program}"), "");
            assert_eq!(advice(&fixture), command);
            fixture.remove(&format!("usr/bin/{program}"));
        }
        fixture.write("usr/sbin/update-initramfs", "");
        assert_eq!(
            advice(&fixture),
            format!("update-initramfs -u -k {RELEASE}")
        );
    }

    #[test]
    fn images_of_other_distributions() {
        let mut fixture = Fixture::healthy();
        fixture.remove(&format!("boot/initrd.img-{RELEASE}"));
        let module = format!("usr/lib/modules/{RELEASE}/updates/dkms/apple_dma_pci.ko.zst");
        // Arch names images after the kernel's package.
        fixture.write(&format!("lib/modules/{RELEASE}/pkgbase"), "linux-lts\n");
        fixture.write("boot/initramfs-linux-lts.img", "");
        fixture.prints("lsinitcpio /boot/initramfs-linux-lts.img", &module);
        Fixture::is_ok(&initramfs(&fixture.guest()));
        fixture.write("usr/bin/mkinitcpio", "");
        fixture.make_newer(&format!(
            "lib/modules/{RELEASE}/updates/dkms/apple_dma_pci.ko"
        ));
        assert_eq!(advice(&fixture), "mkinitcpio -p linux-lts");
        fixture.prints("lsinitcpio /boot/initramfs-linux-lts.img", "usr/bin/kmod");
        Fixture::is_warning(&initramfs(&fixture.guest()), "does not have the module");
        fixture.remove("boot/initramfs-linux-lts.img");

        // Those of the boot loader specification.
        fixture.write("etc/machine-id", "0123\n");
        fixture.write(&format!("efi/0123/{RELEASE}/initrd"), "");
        fixture.prints(&format!("lsinitrd /efi/0123/{RELEASE}/initrd"), &module);
        fixture.make_newer(&format!("efi/0123/{RELEASE}/initrd"));
        Fixture::is_ok(&initramfs(&fixture.guest()));
    }
}
