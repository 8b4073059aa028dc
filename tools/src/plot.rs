// SPDX-License-Identifier: GPL-2.0

//! `plot`: a recording as a picture, SVG or an HTML page with it. `plot/picture.rs` draws the
//! picture.

mod picture;
mod ram;

use crate::progress::Progress;
use crate::report;
use anyhow::{
    bail,
    Context,
    Result, //
};
use serde::Serialize;
use std::{
    fs,
    path::{
        Path,
        PathBuf, //
    },
    process::ExitCode, //
};

#[derive(clap::Args)]
pub struct Options {
    /// A recording that `record` wrote
    file: PathBuf,
    /// Write the picture to FILE, which ends in .svg or .html
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

/// The result, for programs.
#[derive(Serialize)]
struct Summary<'a> {
    file: &'a Path,
    bytes: usize,
}

pub fn run(options: &Options, json: bool) -> Result<ExitCode> {
    let output = &options.output;
    let is_html = match output.extension().and_then(|end| end.to_str()) {
        Some("svg") => false,
        Some("html") => true,
        _ => bail!("{} ends neither in .svg nor in .html", output.display()),
    };
    let recording = report::read(&options.file)?;
    let mut progress = Progress::new();
    progress.show(|| "drawing".to_owned());
    let mut text = picture::draw(&recording)?;
    drop(progress);
    if is_html {
        text = page(&text);
    }
    fs::write(output, &text).with_context(|| output.display().to_string())?;
    if json {
        let bytes = text.len();
        println!(
            "{}",
            serde_json::to_string(&Summary {
                file: output,
                bytes
            })?
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns a page with the picture, as wide as the window.
fn page(picture: &str) -> String {
    // A part of a page is no document of its own.
    let picture = picture.find("<svg").map_or("", |at| &picture[at..]);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <title>apple-dma-pci</title>\n\
         <style>body {{ margin: 0; background: white }}\n\
         svg {{ width: 100%; height: auto }}</style>\n\
         </head>\n<body>\n{picture}</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording;

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
            ] {
                assert!(text.contains(part), "{name}: {part}");
            }
        }
    }

    #[test]
    fn other_endings_are_refused() {
        let (dir, file) = recording::tests::fixture();
        let output = dir.path().join("a.png");
        let error = run(
            &Options {
                file,
                output: output.clone(),
            },
            false,
        )
        .unwrap_err();
        assert!(error.to_string().contains("neither in .svg"), "{error}");
        assert!(!output.exists());
    }
}
