// SPDX-License-Identifier: GPL-2.0

//! The terminal's contents: rows of one line each, as wide as the terminal, of which a part is
//! shown.

use crate::status::{
    budgets,
    facts,
    title, //
};
use crate::text;
use crate::view::{
    CompanionView,
    View, //
};
use ratatui::{
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
    widgets::Gauge,
    Frame, //
};
use std::collections::{
    BTreeMap,
    VecDeque, //
};

/// Part of a limit from which on its gauge has another colour.
const HIGH: f64 = 0.9;

/// Number of values of a history.
const VALUES: usize = 200;

/// Columns of names, and of the blank before them.
const NAME: u16 = 12;
const INDENT: u16 = 2;

/// Width from which on the numbers are in the gauge, not below it.
const WIDE: u16 = 60;

/// Characters of a history, from the least to the greatest value.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A value over time.
#[derive(Default)]
struct History {
    values: VecDeque<f64>,
    most: f64,
}

impl History {
    fn add(&mut self, value: f64) {
        if self.values.len() == VALUES {
            self.values.pop_front();
        }
        self.values.push_back(value);
        self.most = self.most.max(value);
    }

    /// Returns the last values as characters.
    fn line(&self, width: usize) -> String {
        let skipped = self.values.len().saturating_sub(width);
        let shown = self.values.iter().skip(skipped);
        shown
            .map(|value| {
                let part = if self.most > 0.0 {
                    value / self.most
                } else {
                    0.0
                };
                // CAST: From 0 to 7.
                let level = (part * (LEVELS.len() - 1) as f64).ceil() as usize;
                LEVELS[level.min(LEVELS.len() - 1)]
            })
            .collect()
    }
}

/// The histories of a companion: memory, and calls and requests a second.
#[derive(Default)]
struct CompanionHistory {
    bytes: History,
    maps: History,
    doorbells: History,
}

/// The histories of all companions.
#[derive(Default)]
pub struct Histories(BTreeMap<String, CompanionHistory>);

impl Histories {
    /// Adds the values of a view.
    pub fn add(&mut self, view: &View) {
        for companion in &view.companions {
            let history = self.0.entry(companion.now.companion.clone()).or_default();
            history.bytes.add(companion.now.bytes as f64);
            if let Some(rates) = &companion.rates {
                history.maps.add(rates.maps);
                history.doorbells.add(rates.doorbells);
            }
        }
    }
}

/// A row of the contents.
enum Row {
    Text(Line<'static>),
    Gauge {
        name: &'static str,
        part: f64,
        label: String,
    },
}

/// Returns the lines of a text that is wrapped at blanks; longer words are split.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        let used = lines.last().map_or(0, |line| line.chars().count());
        if used != 0 && used + 1 + word.len() > width {
            lines.push(String::new());
        } else if used != 0 {
            lines.last_mut().into_iter().for_each(|line| line.push(' '));
        }
        while word.len() > width {
            let rest = word.split_off(width);
            lines
                .last_mut()
                .into_iter()
                .for_each(|line| line.extend(&word));
            lines.push(String::new());
            word = rest;
        }
        lines
            .last_mut()
            .into_iter()
            .for_each(|line| line.extend(&word));
    }
    lines
}

/// The rows of the contents, while they are made.
struct Rows {
    rows: Vec<Row>,
    width: u16,
}

impl Rows {
    /// Adds a text of its own style in as many rows as it needs.
    fn text(&mut self, indent: u16, text: &str, style: fn(Line<'static>) -> Line<'static>) {
        let width = self.width.saturating_sub(indent);
        for line in wrap(text, width.into()) {
            let line = Line::from(" ".repeat(indent.into()) + &line);
            self.rows.push(Row::Text(style(line)));
        }
    }

    /// Adds a name with a text.
    fn named(&mut self, name: &str, text: &str) {
        let first = self.rows.len();
        self.text(NAME, text, |line| line);
        if let Some(Row::Text(line)) = self.rows.get_mut(first) {
            let text: String = line.to_string();
            let rest = text.chars().skip(NAME.into()).collect::<String>();
            let name = format!(
                "{:blank$}{name:<column$}",
                "",
                blank = usize::from(INDENT),
                column = usize::from(NAME - INDENT)
            );
            *line = Line::from(vec![name.bold(), rest.into()]);
        }
    }

    fn history(&mut self, name: &str, history: &History, show: &dyn Fn(f64) -> String) {
        if history.values.is_empty() {
            return;
        }
        let most = format!(" most {}", show(history.most));
        let width = self.width.saturating_sub(NAME);
        let left = usize::from(width).saturating_sub(most.chars().count());
        if left > 0 {
            self.named(name, &(history.line(left) + &most));
        }
    }

    fn companion(&mut self, companion: &CompanionView, view: &View, histories: &Histories) {
        self.text(0, &title(companion), |line| line.bold());
        for (name, part, numbers) in budgets(companion) {
            let percent = format!("{:.0} %", part * 100.0);
            let (label, below) = match self.width >= WIDE {
                true => (format!("{percent}  {numbers}"), None),
                false => (percent, Some(numbers)),
            };
            self.rows.push(Row::Gauge { name, part, label });
            if let Some(numbers) = below {
                self.named("", &numbers);
            }
        }
        for (name, fact) in facts(companion) {
            self.named(name, &fact);
        }
        if let Some(history) = histories.0.get(&companion.now.companion) {
            // CAST: Bytes that were made of integers.
            self.history("memory", &history.bytes, &|bytes| text::bytes(bytes as u64));
            self.history("maps", &history.maps, &|rate| text::rate(rate));
            self.history("doorbells", &history.doorbells, &|rate| text::rate(rate));
        }
        let needs = view.attention.iter();
        for need in needs.filter(|need| need.companion == companion.now.companion) {
            self.text(INDENT, &format!("! {}", need.text), |line| line.yellow());
        }
        self.rows.push(Row::Text(Line::default()));
    }
}

/// Returns all rows.
fn rows(view: &View, histories: &Histories, width: u16) -> Vec<Row> {
    let mut rows = Rows {
        rows: Vec::new(),
        width,
    };
    for companion in &view.companions {
        rows.companion(companion, view, histories);
    }
    match view.missing {
        Some(missing) => rows.text(0, missing, |line| line),
        None if view.attention.is_empty() => rows.text(0, "no warnings", |line| line),
        None => {}
    }
    rows.rows
}

/// The part of the contents that is shown.
#[derive(Default)]
pub struct Screen {
    /// Rows above it.
    above: usize,
    /// Rows of it, and of all contents, as drawn last.
    height: usize,
    all: usize,
}

impl Screen {
    /// Scrolls by a number of rows.
    pub fn scroll(&mut self, rows: i32) {
        // CAST: `usize` has at least 32 bits.
        let distance = rows.unsigned_abs() as usize;
        self.above = match rows < 0 {
            true => self.above.saturating_sub(distance),
            false => self.above.saturating_add(distance),
        };
        self.above = self.above.min(self.all.saturating_sub(self.height));
    }

    /// Scrolls by a number of screens, less a row.
    pub fn scroll_pages(&mut self, pages: i32) {
        let page = i32::try_from(self.height)
            .unwrap_or(i32::MAX)
            .saturating_sub(1)
            .max(1);
        self.scroll(pages.saturating_mul(page));
    }

    /// Draws a view.
    pub fn draw(&mut self, frame: &mut Frame<'_>, view: &View, histories: &Histories) {
        let parts = [Constraint::Length(1), Constraint::Min(0)];
        let [head, body] = Layout::vertical(parts).areas(frame.area());
        let rows = rows(view, histories, body.width);
        self.height = body.height.into();
        self.all = rows.len();
        self.scroll(0);
        let more = self.all.saturating_sub(self.above + self.height);
        let keys = match (self.above, more) {
            (0, 0) => String::new(),
            (above, below) => format!(", ↑↓ scroll ({above} above, {below} below)"),
        };
        let text = format!("every {:.1} s: q quits, r resets{keys}", view.interval);
        frame.render_widget(Line::from(text).dim(), head);
        for (y, row) in (body.y..body.bottom()).zip(rows.iter().skip(self.above)) {
            let area = Rect {
                y,
                height: 1,
                ..body
            };
            draw_row(frame, area, row);
        }
    }
}

fn draw_row(frame: &mut Frame<'_>, area: Rect, row: &Row) {
    match row {
        Row::Text(line) => frame.render_widget(line, area),
        Row::Gauge { name, part, label } => {
            let columns = [
                Constraint::Length(INDENT),
                Constraint::Length(NAME - INDENT),
                Constraint::Min(0),
            ];
            let [_, left, right] = Layout::horizontal(columns).areas(area);
            frame.render_widget(Line::from(*name).bold(), left);
            let colour = if *part >= HIGH {
                Color::Red
            } else {
                Color::Blue
            };
            let gauge = Gauge::default()
                .ratio(*part)
                .label(label.clone())
                .gauge_style(Style::new().fg(colour).bg(Color::DarkGray))
                .use_unicode(true);
            frame.render_widget(gauge, right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        system,
        view::Sampler, //
    };
    use ratatui::{
        backend::TestBackend,
        Terminal, //
    };

    /// Returns what a terminal of this size shows after `scroll`.
    fn text(width: u16, height: u16, scroll: &[i32]) -> String {
        let (_dir, system) = system::tests::fixture();
        let mut sampler = Sampler::new(system);
        let mut histories = Histories::default();
        let mut view = sampler.sample().unwrap();
        for _ in 0..3 {
            view = sampler.sample().unwrap();
            histories.add(&view);
        }
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let mut screen = Screen::default();
        for lines in [0].iter().chain(scroll) {
            screen.scroll(*lines);
            let draw = |frame: &mut Frame<'_>| screen.draw(frame, &view, &histories);
            terminal.draw(draw).unwrap();
        }
        terminal.backend().to_string()
    }

    const PARTS: &[&str] = &[
        "q quits",
        "0000:00:10.0 manages 0000:00:06.0",
        "bytes",
        "of 61440, peak 16",
        "windows   live 0, idle 16",
        "mappings  created 0/s",
        "memory    ███",
        " most 944 KiB",
        "doorbells ▁▁▁",
        "! driver bug: it unmapped 1 time",
    ];

    #[test]
    fn a_terminal_shows_all() {
        let text = text(100, 30, &[]);
        for part in PARTS {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("scroll"), "{text}");
    }

    #[test]
    fn a_narrow_terminal_shows_all_in_more_lines() {
        let text = text(40, 40, &[]);
        let narrow = text.lines().map(|line| line.trim_matches('"').trim_end());
        let words = narrow.collect::<Vec<_>>().join(" ");
        let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "0000:00:10.0 manages 0000:00:06.0 (driver apple_dma_test), lazy mode, host ready",
            "944 KiB of 1.2 GiB, peak 944 KiB",
            "16 of 61440, peak 16",
            "doorbells 0/s, windows created 0/s, unmapped 0/s",
            "! driver bug: it unmapped 1 time memory that was not mapped",
        ] {
            assert!(words.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_scrolled_to() {
        let first = text(100, 6, &[]);
        assert!(
            first.contains("manages") && !first.contains("driver bug"),
            "{first}"
        );
        assert!(first.contains("↑↓ scroll (0 above, "), "{first}");
        for scroll in [&[i32::MAX][..], &[1, 2, 3, 4, 100]] {
            let last = text(100, 6, scroll);
            assert!(
                !last.contains("manages") && last.contains("driver bug"),
                "{last}"
            );
            assert!(last.contains(" above, 0 below)"), "{last}");
        }
        assert_eq!(text(100, 6, &[5, i32::MIN]), first);
        assert_eq!(text(100, 6, &[-1]), first);
        assert_ne!(text(100, 6, &[1]), first);
    }

    #[test]
    fn a_small_terminal_shows_what_it_can() {
        for (width, height) in [(1, 1), (10, 3), (40, 5), (300, 2), (12, 50)] {
            text(width, height, &[1]);
        }
    }

    #[test]
    fn texts_are_wrapped() {
        assert_eq!(wrap("a bc def", 4), ["a bc", "def"]);
        assert_eq!(wrap("a bcdefgh i", 3), ["a", "bcd", "efg", "h i"]);
        assert_eq!(wrap("", 3), [""]);
        assert_eq!(wrap("ab", 0), ["a", "b"]);
    }

    #[test]
    fn histories_are_short() {
        let mut history = History::default();
        assert_eq!(history.line(5), "");
        for value in [0.0, 1.0, 4.0, 8.0, 7.9] {
            history.add(value);
        }
        assert_eq!(history.line(10), "▁▂▅██");
        assert_eq!(history.line(2), "██");
        for _ in 0..2 * VALUES {
            history.add(0.0);
        }
        assert_eq!(history.line(2 * VALUES).chars().count(), VALUES);
        assert_eq!(history.most, 8.0);
    }
}
