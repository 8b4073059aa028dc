// SPDX-License-Identifier: GPL-2.0

//! Parts of a package besides the program: its manual page, and completions for shells, generated
//! from the command line's description when the package is built.

use anyhow::Result;
use clap::{
    Command,
    CommandFactory, //
};
use clap_complete::Shell;
use clap_mangen::Man;
use std::{
    io,
    process::ExitCode, //
};

#[derive(clap::Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// The program's name.
const NAME: &str = "apple-dma-pci";

/// Writes completions to the standard output.
pub fn completions<T: CommandFactory>(options: &Completions) -> ExitCode {
    clap_complete::generate(options.shell, &mut T::command(), NAME, &mut io::stdout());
    ExitCode::SUCCESS
}

/// Writes the manual page to the standard output: one page, with all commands.
pub fn manual<T: CommandFactory>() -> Result<ExitCode> {
    io::Write::write_all(&mut io::stdout(), &page(T::command())?)?;
    Ok(ExitCode::SUCCESS)
}

fn page(mut command: Command) -> Result<Vec<u8>> {
    command.build();
    let mut page = Vec::new();
    let man = Man::new(command.clone()).section("8");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let title = format!(".SH \"{}\"\n", sub.get_name().to_uppercase());
        page.extend_from_slice(title.as_bytes());
        let man = Man::new(sub.clone());
        let mut part = Vec::new();
        man.render_synopsis_section(&mut part)?;
        man.render_description_section(&mut part)?;
        man.render_options_section(&mut part)?;
        // Sections of a section.
        let part = String::from_utf8(part)?.replace(".SH ", ".SS ");
        page.extend_from_slice(part.as_bytes());
    }
    page.extend_from_slice(
        b".SH \"EXIT STATUS\"\n0: success. 1: doctor found problems. 2: failure, with the reason \
          in one line on the standard error. record exits with the status of its command.\n",
    );
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arguments;

    #[test]
    fn the_page_has_all_commands() {
        let page = String::from_utf8(page(Arguments::command()).unwrap()).unwrap();
        for part in [
            ".TH apple-dma-pci 8",
            ".SH \"RECORD\"",
            "\\-\\-buffer",
            "EXIT STATUS",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(!page.contains("COMPLETIONS"));
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
