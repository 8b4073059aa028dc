// SPDX-License-Identifier: GPL-2.0

//! Secure Boot, and the kernel's trust in the signer of the module.

use crate::doctor::finding::Finding;
use crate::doctor::guest::Guest;
use crate::doctor::module;

const SECURE_BOOT: &str =
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Variables with the keys of the machine's owner, which shim exports: maybe several.
const OWNERS: &[(&str, &str)] = &[
    ("/sys/firmware/efi/efivars", "MokListRT"),
    ("/sys/firmware/efi/mok-variables", "MokListRT"),
];

/// The key with which DKMS signs, as a certificate in DER.
const DKMS_KEY: &str = "/var/lib/dkms/mok.pub";

const ENROLL: &str = "mokutil --import /var/lib/dkms/mok.pub, reboot, and at \"MOK management\": \
    Enroll MOK, Continue, Yes, the password";

/// Returns the setting that makes the kernel load signed modules only, if any.
fn enforced(guest: &Guest) -> Option<&'static str> {
    let read = |path: &str| guest.system.line(path).unwrap_or_default();
    let lockdown = read("/sys/kernel/security/lockdown");
    if lockdown.contains("[integrity]") || lockdown.contains("[confidentiality]") {
        return Some("the kernel is locked down");
    }
    if read("/sys/module/module/parameters/sig_enforce") == "Y" {
        return Some("module.sig_enforce is set");
    }
    let config = guest.config.as_ref()?.get("CONFIG_MODULE_SIG_FORCE")?;
    (config == "y").then_some("the kernel has CONFIG_MODULE_SIG_FORCE")
}

/// Returns whether the machine's owner trusts the key of DKMS; [`None`] if that is not known.
fn owner_trusts_dkms(guest: &Guest) -> Option<bool> {
    let key = guest
        .system
        .bytes(DKMS_KEY)
        .ok()
        .filter(|key| !key.is_empty())?;
    let mut keys = Vec::new();
    for (directory, prefix) in OWNERS {
        for name in guest.system.names(directory) {
            if name.starts_with(prefix) {
                keys.extend(guest.system.bytes(&format!("{directory}/{name}")).ok()?);
            }
        }
    }
    Some(keys.windows(key.len()).any(|part| part == key))
}

/// `secure-boot`
pub fn secure_boot(guest: &Guest) -> Vec<Finding> {
    // Preceded by four bytes of attributes.
    let secure = guest.system.bytes(SECURE_BOOT);
    let secure = secure.is_ok_and(|bytes| bytes.get(4) == Some(&1));
    let state = if secure {
        "Secure Boot is on"
    } else {
        "Secure Boot is off"
    };
    let Some(why) = enforced(guest) else {
        return vec![Finding::ok(format!(
            "{state}, and the kernel accepts unsigned modules"
        ))];
    };
    if guest.is_loaded() {
        return vec![Finding::ok(format!(
            "{state}, {why}, and the module was accepted"
        ))];
    }
    let Some(file) = module::file(guest) else {
        return vec![Finding::unknown(
            format!("{state}, {why}, and there is no module that could be signed"),
            "install it first",
        )];
    };
    let Some(info) = module::info(guest, &file) else {
        return vec![Finding::unknown(
            format!("{state}, {why}, and {file} cannot be inspected"),
            "run this as root, in the system itself",
        )];
    };
    let Some(signer) = info.get("signer") else {
        return vec![Finding::problem(
            format!("{state}, {why}, and the module is not signed"),
            format!(
                "sign it: DKMS does so where openssl and the kernel's sign-file are; then {ENROLL}"
            ),
        )];
    };
    // The kernel's keyrings, as far as the user may read them.
    let keys = guest.system.text("/proc/keys").unwrap_or_default();
    let in_kernel = !signer.is_empty() && keys.contains(signer);
    vec![if in_kernel || owner_trusts_dkms(guest) == Some(true) {
        Finding::ok(format!("{state}, {why}, and trusts the module's signer"))
    } else if owner_trusts_dkms(guest) == Some(false) {
        Finding::problem(
            format!("{state}, {why}, and the key of DKMS is not enrolled"),
            ENROLL,
        )
    } else {
        let signer = if signer.is_empty() {
            "its signer"
        } else {
            signer
        };
        Finding::problem(
            format!("{state}, {why}; the module is signed, but {signer} may not be trusted"),
            format!("enroll the key of the signature; with DKMS: {ENROLL}"),
        )
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::{
        Fixture,
        RELEASE, //
    };

    const LOCKDOWN: &str = "sys/kernel/security/lockdown";

    fn file() -> String {
        format!("lib/modules/{RELEASE}/updates/dkms/apple_dma_pci.ko")
    }

    fn locked() -> Fixture {
        let fixture = Fixture::healthy();
        fixture.write_bytes(&SECURE_BOOT[1..], &[6, 0, 0, 0, 1]);
        fixture.write(LOCKDOWN, "none [integrity] confidentiality\n");
        fixture
    }

    #[test]
    fn no_secure_boot() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&secure_boot(&fixture.guest()));
        fixture.unload();
        Fixture::is_ok(&secure_boot(&fixture.guest()));
        fixture.write("sys/module/module/parameters/sig_enforce", "Y\n");
        Fixture::is_problem(
            &secure_boot(&fixture.guest()),
            "sig_enforce is set, and the module is not",
        );
        fixture.write("sys/module/module/parameters/sig_enforce", "N\n");
        let config = format!("boot/config-{RELEASE}");
        fixture.edit(&config, |text| text + "CONFIG_MODULE_SIG_FORCE=y\n");
        Fixture::is_problem(
            &secure_boot(&fixture.guest()),
            "CONFIG_MODULE_SIG_FORCE, and the",
        );
    }

    #[test]
    fn a_module_that_was_taken() {
        let findings = secure_boot(&locked().guest());
        Fixture::is_ok(&findings);
        assert!(findings[0].found.contains("Secure Boot is on"));
    }

    #[test]
    fn a_module_that_was_not() {
        let mut fixture = locked();
        fixture.unload();
        Fixture::is_problem(&secure_boot(&fixture.guest()), "is not signed");

        let mut signed = fixture.read_bytes(&file());
        signed.extend(b"PKCS#7~Module signature appended~\n");
        fixture.write_bytes(&file(), &signed);
        Fixture::is_problem(&secure_boot(&fixture.guest()), "may not be trusted");

        fixture.prints(
            &format!("modinfo --field signer /{}", file()),
            "DKMS module signing key\n",
        );
        Fixture::is_problem(
            &secure_boot(&fixture.guest()),
            "DKMS module signing key may not",
        );
        fixture.write("proc/keys", "1 I-- asymmetri Debian Secure Boot CA: X509\n");
        Fixture::is_problem(&secure_boot(&fixture.guest()), "may not be trusted");

        fixture.write_bytes(&DKMS_KEY[1..], b"certificate");
        Fixture::is_problem(&secure_boot(&fixture.guest()), "is not enrolled");
        let list = "sys/firmware/efi/efivars/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23";
        fixture.write_bytes(list, b"\x06\0\0\0list certificat list");
        Fixture::is_problem(&secure_boot(&fixture.guest()), "is not enrolled");
        fixture.write_bytes(list, b"\x06\0\0\0list certificate list");
        Fixture::is_ok(&secure_boot(&fixture.guest()));
        fixture.remove(list);
        fixture.write(
            "proc/keys",
            "1 I-- asymmetri DKMS module signing key: X509\n",
        );
        Fixture::is_ok(&secure_boot(&fixture.guest()));

        fixture.write_bytes(&file(), b"rubbish");
        Fixture::is_unknown(&secure_boot(&fixture.guest()), "cannot be inspected");
        fixture.remove(&file());
        Fixture::is_unknown(&secure_boot(&fixture.guest()), "there is no module");
    }
}
