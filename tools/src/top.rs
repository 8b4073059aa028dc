// SPDX-License-Identifier: GPL-2.0

//! `top`: the contents of `status`, refreshed, with a short history: on the whole terminal, or as
//! text where there is none. `top/screen.rs` lays out the terminal.

mod screen;

use crate::output;
use crate::status;
use crate::system::System;
use crate::view::{
    Sampler,
    View, //
};
use anyhow::Result;
use ratatui::crossterm::event::{
    self,
    Event,
    KeyCode,
    KeyEvent,
    KeyEventKind,
    KeyModifiers, //
};
use screen::{
    Histories,
    Screen, //
};
use std::{
    io::{
        self,
        IsTerminal, //
    },
    process::ExitCode,
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// The least interval: reading the module's files takes its locks, and costs it time.
const LEAST: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub struct Options {
    /// Seconds between two refreshes, 0.1 at least
    #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// End after this many refreshes
    #[arg(long, short = 'n', value_name = "NUMBER")]
    iterations: Option<u64>,
    /// Write text, as where there is no terminal
    #[arg(long, short)]
    batch: bool,
}

/// Parses a number of seconds, from the least interval to an hour.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = status::interval(text).ok();
    let interval = interval.filter(|interval| *interval >= LEAST);
    interval.ok_or_else(|| "seconds from 0.1 to 3600, such as 0.5".to_owned())
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
    let mut left = options.iterations;
    while left != Some(0) {
        thread::sleep(options.interval);
        let view = sampler.sample()?;
        output::print(&match json {
            true => output::json_line(&view)?,
            false => status::screen(&view) + "\n",
        })?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// The action of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Quit,
    /// Forget the history.
    Reset,
    /// Scroll by this many lines.
    Lines(i32),
    /// Scroll by this many screens.
    Pages(i32),
    Top,
    End,
}

fn wish(key: KeyEvent) -> Option<Wish> {
    Some(match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Wish::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
        KeyCode::Char('r') => Wish::Reset,
        KeyCode::Up | KeyCode::Char('k') => Wish::Lines(-1),
        KeyCode::Down | KeyCode::Char('j') => Wish::Lines(1),
        KeyCode::PageUp => Wish::Pages(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => Wish::Pages(1),
        KeyCode::Home | KeyCode::Char('g') => Wish::Top,
        KeyCode::End | KeyCode::Char('G') => Wish::End,
        _ => return None,
    })
}

fn live(
    options: &Options,
    sampler: &mut Sampler,
    mut view: View,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<()> {
    let mut left = options.iterations;
    let mut histories = Histories::default();
    let mut screen = Screen::default();
    while left != Some(0) {
        histories.add(&view);
        terminal.draw(|frame| screen.draw(frame, &view, &histories))?;
        let next = Instant::now() + options.interval;
        loop {
            let wait = next.saturating_duration_since(Instant::now());
            if !event::poll(wait)? {
                break;
            }
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match wish(key) {
                    Some(Wish::Quit) => return Ok(()),
                    Some(Wish::Reset) => histories = Histories::default(),
                    Some(Wish::Lines(lines)) => screen.scroll(lines),
                    Some(Wish::Pages(pages)) => screen.scroll_pages(pages),
                    Some(Wish::Top) => screen.scroll(i32::MIN),
                    Some(Wish::End) => screen.scroll(i32::MAX),
                    None => continue,
                },
                Event::Resize(..) => {}
                _ => continue,
            }
            terminal.draw(|frame| screen.draw(frame, &view, &histories))?;
        }
        view = sampler.sample()?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        assert_eq!(interval("0.1"), Ok(LEAST));
        for wrong in ["0", "0.09", "x", "3601"] {
            assert!(
                interval(wrong).unwrap_err().contains("0.1 to 3600"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn keys() {
        let key = |code| wish(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(key(KeyCode::Char('q')), Some(Wish::Quit));
        assert_eq!(key(KeyCode::Down), Some(Wish::Lines(1)));
        assert_eq!(key(KeyCode::PageUp), Some(Wish::Pages(-1)));
        assert_eq!(key(KeyCode::Char('c')), None);
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(wish(control), Some(Wish::Quit));
    }
}
