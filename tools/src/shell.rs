// SPDX-License-Identifier: GPL-2.0

//! Parts of a package besides the program: its manual page, and completions for shells, generated
//! from the command line's description when the package is built.

use crate::output;
use anyhow::Result;
use clap::{
    Command,
    CommandFactory, //
};
use clap_complete::Shell;
use clap_mangen::Man;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// The program's name.
const NAME: &str = "apple-dma-pci";

/// Writes completions to the standard output.
pub fn completions<T: CommandFactory>(options: &Completions) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(options.shell, &mut T::command(), NAME, &mut text);
    output::print(&String::from_utf8(text)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Sections of the manual page that the command line's description does not have.
const SECTIONS: &[(&str, &str)] = &[
    (
        "EXAMPLES",
        r#"Find out why a device does not work, or what could be better:
.PP
.RS 4
.nf
sudo apple\-dma\-pci doctor
.fi
.RE
.PP
Show what is mapped, and how near the limits are; then the same while a program runs:
.PP
.RS 4
.nf
sudo apple\-dma\-pci status
sudo apple\-dma\-pci top
.fi
.RE
.PP
Log it when little is left of the limits, before a mapping fails:
.PP
.RS 4
.nf
apple\-dma\-pci pressure \-\-follow | logger \-t pressure
.fi
.RE
.PP
Record what is mapped while a program runs, to a file that is not on the device itself; then show
sizes, lifetimes, and what other limits would have done; then draw it:
.PP
.RS 4
.nf
sudo apple\-dma\-pci record \-o /run/fio.recording \-\- fio job.fio
apple\-dma\-pci report /run/fio.recording
apple\-dma\-pci plot /run/fio.recording \-o fio.html
.fi
.RE
.PP
The same on another machine, without a file between them:
.PP
.RS 4
.nf
ssh root@guest apple\-dma\-pci record \-o \- \-\-duration 10 | apple\-dma\-pci report \-
.fi
.RE
.PP
Count the problems, for a program:
.PP
.RS 4
.nf
sudo apple\-dma\-pci doctor \-\-json | jq .problems
.fi
.RE
.PP
Tell others about the host, and report a bug:
.PP
.RS 4
.nf
sudo apple\-dma\-pci host \-\-duration 30
sudo apple\-dma\-pci bug\-report \-o report.txt
.fi
.RE
"#,
    ),
    (
        "FILES",
        r#".TP
.I /sys/bus/pci/devices/COMPANION/apple_dma_pci/
the device that a companion manages, what is mapped, and the limits, for all users
.TP
.I /sys/kernel/debug/apple_dma_pci/COMPANION/
counters, requests to the host, and windows, for root
.TP
.I /sys/kernel/tracing/instances/apple\-dma\-pci\-PID
the events that are being recorded; removed at the end
.TP
.I /etc/modprobe.d/*.conf
parameters of the module: options apple_dma_pci NAME=VALUE
.TP
.I apple\-dma\-pci.recording
a recording, unless \-\-output says otherwise: lines of JSON, packed by
.BR gzip (1)
"#,
    ),
    (
        "EXIT STATUS",
        r#".TP
.B 0
success
.TP
.B 1
.B doctor
found problems
.TP
.B 2
failure: the standard error has the reason in one line, or with \-\-json the standard output, in the
member "error"
.TP
.B other
.B record
exits with the status of the command that it ran; 128 and more: of the signal that ended it
"#,
    ),
    (
        "SEE ALSO",
        r#".BR modprobe.d (5),
.BR dmesg (1),
.BR lspci (8),
and the documents of the module: parameters.md has its parameters and modes, troubleshooting.md its
messages, and observability.md its files and events.
"#,
    ),
];

/// Writes the manual page to the standard output: one page, with all commands.
pub fn manual<T: CommandFactory>() -> Result<ExitCode> {
    output::print(&page(T::command())?)?;
    Ok(ExitCode::SUCCESS)
}

fn page(mut command: Command) -> Result<String> {
    command.build();
    let mut page = Vec::new();
    let man = Man::new(command.clone()).section("8");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut page = String::from_utf8(page)?;
    let is_shown = |sub: &&Command| !sub.is_hide_set() && sub.get_name() != "help";
    for sub in command.get_subcommands().filter(is_shown) {
        let title = format!(".SH \"{}\"\n", sub.get_name().to_uppercase());
        page.push_str(&title);
        let man = Man::new(sub.clone());
        let mut part = Vec::new();
        man.render_synopsis_section(&mut part)?;
        man.render_description_section(&mut part)?;
        man.render_options_section(&mut part)?;
        // Sections of a section.
        page.push_str(&String::from_utf8(part)?.replace(".SH ", ".SS "));
    }
    for (title, text) in SECTIONS {
        page.push_str(&format!(".SH \"{title}\"\n{text}"));
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arguments;

    #[test]
    fn the_page_has_all_commands() {
        let page = page(Arguments::command()).unwrap();
        for part in [
            ".TH apple-dma-pci 8",
            ".SH \"RECORD\"",
            ".SH \"BUG-REPORT\"",
            "\\-\\-buffer",
            ".SH \"EXAMPLES\"",
            ".SH \"FILES\"",
            ".SH \"EXIT STATUS\"",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(!page.contains("COMPLETIONS") && !page.contains("\"HELP\""));
    }

    #[test]
    fn examples_are_of_commands_that_exist() {
        let (_, examples) = SECTIONS
            .iter()
            .find(|(title, _)| *title == "EXAMPLES")
            .unwrap();
        let text = examples.replace('\\', "");
        let mut count = 0;
        for line in text.lines().filter(|line| line.contains("apple-dma-pci ")) {
            let line = line.strip_prefix("sudo ").unwrap_or(line);
            let line = line.strip_prefix("ssh root@guest ").unwrap_or(line);
            for command in line
                .split(" | ")
                .filter(|part| part.starts_with("apple-dma-pci "))
            {
                let parsed = Arguments::command().try_get_matches_from(command.split(' '));
                assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
                count += 1;
            }
        }
        assert_eq!(count, 12);
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
