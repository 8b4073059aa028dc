// SPDX-License-Identifier: GPL-2.0

//! Interrupts of managed devices: the host delivers messages (MSI) well, and a shared line (INTx)
//! hardly. Of common drivers that of HD Audio uses a line for some devices, NVIDIA's among them,
//! unless it is told otherwise.

use crate::doctor::finding::Finding;
use crate::doctor::guest::{
    underscores,
    Guest, //
};

/// The driver, and the class of its devices.
const DRIVER: &str = "snd_hda_intel";
const CLASS: &str = "0x0403";

/// Its parameter.
const OPTION: &str = "enable_msi=1";

/// Returns whether the parameter is set for the next time that the driver is loaded.
fn is_set(guest: &Guest) -> bool {
    let in_file = guest.modprobe.iter().any(|line| match &line[..] {
        [word, module, options @ ..] => {
            word == "options"
                && underscores(module) == DRIVER
                && options.iter().any(|option| option == OPTION)
        }
        _ => false,
    });
    in_file
        || guest
            .command_line
            .iter()
            .any(|word| *word == format!("{DRIVER}.{OPTION}"))
}

/// `interrupts`
pub fn interrupts(guest: &Guest) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut count = 0;
    for managed in guest.managed() {
        count += 1;
        let class = guest.system.line(&guest.device(managed, "class"));
        let driver = guest.driver(managed);
        let is_audio = class.is_some_and(|class| class.starts_with(CLASS))
            && driver.as_deref().map(underscores).as_deref() == Some(DRIVER);
        if !is_audio || guest.system.exists(&guest.device(managed, "msi_irqs")) {
            continue;
        }
        found.push(Finding::warning(
            format!(
                "{managed} is an HD Audio function that uses no MSI: sound may stop, since the \
                 host hardly delivers other interrupts"
            ),
            if is_set(guest) {
                format!("{OPTION} is set, but not in use yet: reboot")
            } else {
                format!(
                    "echo 'options {DRIVER} {OPTION}' >/etc/modprobe.d/{DRIVER}-msi.conf, then \
                     reboot"
                )
            },
        ));
    }
    if found.is_empty() && count != 0 {
        found.push(Finding::ok(
            "no managed device needs other interrupts than MSI",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::Fixture;

    #[test]
    fn audio_without_messages() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&interrupts(&fixture.guest()));
        fixture.write(&fixture.managed("class"), "0x040300\n");
        Fixture::is_ok(&interrupts(&fixture.guest()));
        let driver = fixture.managed("driver");
        fixture.remove(&driver);
        fixture.link(&driver, "../../drivers/snd_hda_intel");
        let advice = || {
            let findings = interrupts(&fixture.guest());
            Fixture::is_warning(
                &findings,
                "0000:00:05.0 is an HD Audio function that uses no MSI",
            );
            findings[0].advice.clone().unwrap()
        };
        let command = "echo 'options snd_hda_intel enable_msi=1' >/etc/modprobe.d/";
        assert!(advice().starts_with(command));
        fixture.write(
            "etc/modprobe.d/a.conf",
            "options snd-hda-intel power_save=1 enable_msi=1\n",
        );
        assert!(advice().ends_with("reboot"));
        assert!(advice().contains("not in use yet"));
        fixture.write(&fixture.managed("msi_irqs/24"), "msi\n");
        Fixture::is_ok(&interrupts(&fixture.guest()));
    }
}
