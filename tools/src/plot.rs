// SPDX-License-Identifier: GPL-2.0

//! `plot`: a recording as a picture, SVG or an HTML page with it. `plot/picture.rs` draws the
//! picture, and `plot/dress.rs` adds what is no drawing.

mod dress;
mod picture;
mod ram;

use crate::output;
use crate::progress::Progress;
use crate::report;
use anyhow::{
    bail,
    Result, //
};
use clap::ValueEnum;
use serde::Serialize;
use std::{
    path::{
        Path,
        PathBuf, //
    },
    process::ExitCode, //
};

#[derive(clap::Args)]
pub struct Options {
    /// A recording that `record` wrote; - is the standard input
    file: PathBuf,
    /// Write the picture to FILE; - is the standard output
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Form of the picture, if FILE does not end in .svg or .html
    #[arg(long, short, value_name = "FORM")]
    format: Option<Form>,
}

/// A form of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A picture
    Svg,
    /// A page for browsers, with the picture
    Html,
}

impl Options {
    /// Returns the form that is asked for.
    fn form(&self) -> Result<Form> {
        let end = self.output.extension().and_then(|end| end.to_str());
        match (self.format, end) {
            (Some(form), _) => Ok(form),
            (None, Some("svg")) => Ok(Form::Svg),
            (None, Some("html")) => Ok(Form::Html),
            (None, _) => bail!(
                "{} ends neither in .svg nor in .html: use --format",
                self.output.display()
            ),
        }
    }
}

/// The result, for programs.
#[derive(Serialize)]
struct Summary<'a> {
    file: &'a Path,
    bytes: usize,
    /// Reasons why the picture is of a part of the recording.
    warnings: Vec<&'a str>,
}

pub fn run(options: &Options, json: bool) -> Result<ExitCode> {
    let (file, form) = (&options.output, options.form()?);
    let recording = report::read(&options.file)?;
    let mut progress = Progress::new();
    progress.show(|| "drawing".to_owned());
    let mut text = picture::draw(&recording)?;
    drop(progress);
    if form == Form::Html {
        text = page(&text);
    }
    output::write(file, &text)?;
    let warnings = recording.cut.iter().map(String::as_str).collect();
    if json && !output::is_standard(file) {
        let bytes = text.len();
        output::print(&output::json_line(&Summary {
            file,
            bytes,
            warnings,
        })?)?;
    } else {
        for warning in warnings {
            output::remark(&format!("apple-dma-pci: {warning}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns a page with the picture, as wide as the window.
fn page(picture: &str) -> String {
    // A part of a page is no document of its own.
    let picture = picture.find("<svg").map_or("", |at| &picture[at..]);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>apple-dma-pci: a recording</title>\n\
         <style>body {{ margin: 0; background: white }}\n\
         @media (prefers-color-scheme: dark) {{ body {{ background: {} }} }}\n\
         svg {{ width: 100%; height: auto }}</style>\n\
         </head>\n<body>\n{picture}</body>\n</html>\n",
        dress::BACKGROUND
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording;
    use std::fs;

    #[test]
    fn pictures_have_all_parts() {
        let (dir, file) = recording::tests::fixture();
        for (name, begin, end) in [
            ("a.svg", "<svg", "</svg>"),
            ("a.html", "<!DOCTYPE", "</html>"),
        ] {
            let output = dir.path().join(name);
            let file = file.clone();
            run(
                &Options {
                    file,
                    output: output.clone(),
                    format: None,
                },
                false,
            )
            .unwrap();
            let text = fs::read_to_string(&output).unwrap();
            assert!(
                text.starts_with(begin) && text.trim_end().ends_with(end),
                "{name}"
            );
            for part in [
                "0000:00:10.0 manages 0000:00:06.0",
                "Mapped by the host",
                "Windows",
                "Sizes of mappings",
                "Doorbells",
                "Guest RAM",
                "in use",
                "idle",
                "0x40000000",
                "role=\"img\" aria-labelledby=\"title description\"",
                "<title id=\"title\">DMA of 0000:00:06.0: memory",
                ": at most 944 KiB of 1.2 GiB and 16 of 61440 windows mapped; 63 mappings",
                "@media (prefers-color-scheme: dark)",
                " from 4 KiB on</title></rect>",
                " in use</title></rect>",
            ] {
                assert!(text.contains(part), "{name}: {part}");
            }
        }
    }

    #[test]
    fn other_endings_are_refused() {
        let (dir, file) = recording::tests::fixture();
        let output = dir.path().join("a.png");
        let mut options = Options {
            file,
            output: output.clone(),
            format: None,
        };
        let error = run(&options, false).unwrap_err();
        assert!(error.to_string().contains("neither in .svg"), "{error}");
        assert!(!output.exists());
        options.format = Some(Form::Svg);
        run(&options, true).unwrap();
        assert!(fs::read_to_string(&output).unwrap().starts_with("<svg"));
    }
}
