// SPDX-License-Identifier: GPL-2.0

//! `top`: the contents of `status`, refreshed: on the whole terminal, or as text where there is
//! none.

use crate::status::{
    budgets,
    facts,
    interval,
    screen,
    title, //
};
use crate::system::System;
use crate::view::{
    Sampler,
    View, //
};
use anyhow::Result;
use ratatui::{
    crossterm::event::{
        self,
        Event,
        KeyCode,
        KeyEventKind,
        KeyModifiers, //
    },
    layout::{
        Constraint,
        Layout,
        Rect, //
    },
    style::{
        Color,
        Style,
        Stylize, //
    },
    text::Line,
    widgets::{
        Gauge,
        Paragraph,
        Wrap, //
    },
    Frame, //
};
use std::{
    io::{
        self,
        IsTerminal,
        Write, //
    },
    process::ExitCode,
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Part of a limit from which on its gauge has another colour.
const HIGH: f64 = 0.9;

#[derive(clap::Args)]
pub struct Options {
    /// Seconds between two refreshes
    #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// End after this many refreshes
    #[arg(long, short = 'n', value_name = "NUMBER")]
    iterations: Option<u64>,
    /// Write text, as where there is no terminal
    #[arg(long, short)]
    batch: bool,
}

pub fn run(options: &Options, json: bool) -> Result<ExitCode> {
    let mut sampler = Sampler::new(System::new());
    // Errors are printed before the terminal changes.
    let first = sampler.sample()?;
    if json || options.batch || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        batch(options, json, &mut sampler)?;
    } else {
        let mut terminal = ratatui::try_init()?;
        let result = live(options, &mut sampler, first, &mut terminal);
        ratatui::restore();
        result?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a screen, or a line of JSON, at each refresh.
fn batch(options: &Options, json: bool, sampler: &mut Sampler) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut left = options.iterations;
    while left != Some(0) {
        thread::sleep(options.interval);
        let view = sampler.sample()?;
        let text = match json {
            true => format!("{}\n", serde_json::to_string(&view)?),
            false => format!("{}\n", screen(&view)),
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // The reader has closed the pipe.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn live(
    options: &Options,
    sampler: &mut Sampler,
    mut view: View,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<()> {
    let mut left = options.iterations;
    while left != Some(0) {
        terminal.draw(|frame| draw(frame, &view))?;
        let next = Instant::now() + options.interval;
        loop {
            let wait = next.saturating_duration_since(Instant::now());
            if !event::poll(wait)? {
                break;
            }
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                        return Ok(());
                    }
                    _ => {}
                },
                Event::Resize(..) => {
                    terminal.draw(|frame| draw(frame, &view))?;
                }
                _ => {}
            }
        }
        view = sampler.sample()?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// Draws one line of a row, whose first column is a name.
fn row(frame: &mut Frame<'_>, area: Rect, name: &str) -> Rect {
    let columns = [
        Constraint::Length(2),
        Constraint::Length(9),
        Constraint::Min(0),
    ];
    let [_, left, right] = Layout::horizontal(columns).areas(area);
    frame.render_widget(Line::from(name.to_owned()).bold(), left);
    right
}

fn draw(frame: &mut Frame<'_>, view: &View) {
    let mut rest = frame.area();
    // Companions below the end of the terminal are not shown.
    let mut line = |lines: u16| {
        let lines = lines.min(rest.height);
        let area = Rect {
            height: lines,
            ..rest
        };
        rest.y += lines;
        rest.height -= lines;
        area
    };
    let head = format!("apple-dma-pci, every {:.1} s; q quits", view.interval);
    frame.render_widget(Line::from(head).dim(), line(1));
    for companion in &view.companions {
        frame.render_widget(Line::from(title(companion)).bold(), line(1));
        for (name, part, numbers) in budgets(companion) {
            let area = row(frame, line(1), name);
            let colour = if part >= HIGH {
                Color::Red
            } else {
                Color::Blue
            };
            let gauge = Gauge::default()
                .ratio(part)
                .label(format!("{:.0} %  {numbers}", part * 100.0))
                .gauge_style(Style::new().fg(colour).bg(Color::DarkGray))
                .use_unicode(true);
            frame.render_widget(gauge, area);
        }
        for (name, fact) in facts(companion) {
            let area = row(frame, line(1), name);
            frame.render_widget(Line::from(fact), area);
        }
        for need in view
            .attention
            .iter()
            .filter(|need| need.companion == companion.now.companion)
        {
            let text = format!("  ! {}", need.text);
            let width = usize::from(frame.area().width.max(1));
            let lines = text.chars().count().div_ceil(width);
            let text = Paragraph::new(text.yellow()).wrap(Wrap { trim: false });
            frame.render_widget(text, line(u16::try_from(lines).unwrap_or(1)));
        }
        line(1);
    }
    let last = match view.missing {
        Some(missing) => missing,
        None if view.attention.is_empty() => "no warnings",
        None => "",
    };
    frame.render_widget(Paragraph::new(last).wrap(Wrap { trim: false }), line(3));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system;
    use ratatui::{
        backend::TestBackend,
        Terminal, //
    };

    fn text(width: u16, height: u16) -> String {
        let (_dir, system) = system::tests::fixture();
        let mut sampler = Sampler::new(system);
        sampler.sample().unwrap();
        let view = sampler.sample().unwrap();
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &view)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_terminal_shows_all() {
        let text = text(100, 30);
        for part in [
            "q quits",
            "0000:00:10.0 manages 0000:00:06.0",
            "bytes",
            "of 61440, peak 16",
            "windows  live 0, idle 16",
            "! driver bug: it unmapped 1 time memory",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn a_small_terminal_shows_what_it_can() {
        for (width, height) in [(1, 1), (10, 3), (40, 5), (300, 2)] {
            text(width, height);
        }
    }
}
