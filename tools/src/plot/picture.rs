// SPDX-License-Identifier: GPL-2.0

//! The picture of a recording: for each companion the mapped memory over time against the limits,
//! sizes of mappings, durations of the host's work, and places of windows in RAM.

use super::dress::{
    dress,
    Tips, //
};
use super::ram;
use crate::analysis::{
    Histogram,
    Spread, //
};
use crate::event::{
    Event,
    EventKind, //
};
use crate::history::{
    self,
    Moment, //
};
use crate::recording::{
    Recording,
    Snapshot, //
};
use crate::text;
use anyhow::{
    anyhow,
    bail,
    Result, //
};
use plotters::{
    coord::Shift,
    prelude::*, //
};

/// Colours that colour-blind readers can tell apart, by Okabe and Ito.
pub const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xb2);
pub const ORANGE: RGBColor = RGBColor(0xe6, 0x9f, 0x00);
pub const GREEN: RGBColor = RGBColor(0x00, 0x9e, 0x73);
pub const VERMILION: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
/// Colour of the background of bars and cells.
pub const PALE: RGBColor = RGBColor(0xe6, 0xe6, 0xe6);

/// Sizes, in pixels.
const WIDTH: u32 = 1200;
const TITLE: u32 = 50;
const ROW: u32 = 360;
const HEAD: u32 = 58;
const AXIS: u32 = 74;
const LABEL: u32 = 15;

/// Maximum number of points of a line.
const POINTS: usize = 1500;

/// Number of tool tips of a diagram over time.
const STRIPS: u32 = 100;

/// Part of a limit from which on the limit is in the picture; else it is far above.
const NEAR: f64 = 0.2;

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Returns a font with this height in pixels.
pub fn font(pixels: u32) -> TextStyle<'static> {
    ("sans-serif", pixels).into_font().color(&BLACK)
}

/// Draws the picture, as the text of an SVG file.
pub fn draw(recording: &Recording) -> Result<String> {
    let all = &recording.header.before;
    let of = |snapshot: &&Snapshot| {
        let name = &snapshot.companion.companion;
        recording
            .events
            .iter()
            .filter(|event| *event.companion == **name)
            .collect::<Vec<_>>()
    };
    let busy: Vec<_> = all.iter().map(|one| (one, of(&one))).collect();
    let busy: Vec<_> = busy
        .into_iter()
        .filter(|(_, events)| !events.is_empty())
        .collect();
    if busy.is_empty() {
        bail!("the recording has no events, so there is nothing to draw");
    }
    let heights = busy.iter().map(|_| height(&recording.header.ram));
    let (mut picture, tips, mut words) = (String::new(), Tips::default(), Vec::new());
    {
        let size = (WIDTH, heights.sum());
        let mut rest = SVGBackend::with_string(&mut picture, size).into_drawing_area();
        rest.fill(&WHITE).map_err(wrong)?;
        for (before, events) in &busy {
            let (area, below) = rest.split_vertically(height(&recording.header.ram));
            words.push(companion(&area, recording, before, events, &tips)?);
            rest = below;
        }
        rest.present().map_err(wrong)?;
    }
    let names = busy.iter().map(|(before, _)| &*before.companion.device);
    let names = names.collect::<Vec<_>>().join(", ");
    let title = format!("DMA of {names}: memory mapped by the host over time");
    Ok(dress(&picture, &title, &words.join(" "), &tips))
}

/// Returns the height of a companion's part.
fn height(ram: &[(u64, u64)]) -> u32 {
    TITLE + 2 * ROW + ram::height(ram, WIDTH)
}

/// Returns an error of the drawing library, whose error types have many parameters.
pub fn wrong(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

/// Draws the key of colours, in a line from (`x`, `y`) on.
pub fn keys(area: &Area<'_>, (mut x, y): (i32, i32), keys: &[(&str, RGBColor)]) -> Result<()> {
    for (name, colour) in keys {
        let key = Rectangle::new([(x, y), (x + 14, y + 14)], colour.filled());
        area.draw(&key).map_err(wrong)?;
        area.draw(&Text::new((*name).to_owned(), (x + 20, y), font(LABEL)))
            .map_err(wrong)?;
        x += 50 + 8 * name.len() as i32;
    }
    Ok(())
}

/// Draws a title with the key of colours below it, and returns the rest of the area.
fn head<'a>(area: &Area<'a>, title: &str, colours: &[(&str, RGBColor)]) -> Result<Area<'a>> {
    let (head, below) = area.split_vertically(HEAD);
    let title = Text::new(title.to_owned(), (20, 8), font(18));
    head.draw(&title).map_err(wrong)?;
    keys(&head, (AXIS as i32 + 14, 36), colours)?;
    Ok(below)
}

/// Draws the part of a companion; returns in words what it shows.
fn companion(
    area: &Area<'_>,
    recording: &Recording,
    before: &Snapshot,
    events: &[&Event],
    tips: &Tips,
) -> Result<String> {
    let companion = &before.companion;
    let driver = companion.driver.as_deref().unwrap_or("none");
    let title = format!(
        "{} manages {} (driver {driver}), {} mode: {:.1} s",
        companion.companion, companion.device, companion.mode, recording.end.seconds
    );
    let (head, area) = area.split_vertically(TITLE);
    head.draw(&Text::new(title, (16, 16), font(22)))
        .map_err(wrong)?;
    let (first, area) = area.split_vertically(ROW);
    let (second, below) = area.split_vertically(ROW);
    let (moments, regions) = history::of(before, events);
    let most = |value: fn(&Moment) -> u64| moments.iter().map(value).max().unwrap_or(0);
    let (most_bytes, most_entries) = (most(|now| now.bytes), most(|now| now.entries));
    let moments = history::thin(&moments, POINTS);
    let (left, right) = first.split_horizontally(WIDTH / 2);
    // An axis in round numbers of its unit.
    let unit = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    over_time(
        &left,
        &Timeline {
            title: "Mapped by the host",
            unit: "MiB",
            limit: ("max_bytes", unit(companion.max_bytes)),
        },
        &moments,
        |moment| (unit(moment.bytes), unit(moment.live_bytes)),
        tips,
    )?;
    over_time(
        &right,
        &Timeline {
            title: "Windows",
            unit: "windows",
            limit: ("max_entries", companion.max_entries as f64),
        },
        &moments,
        |moment| (moment.entries as f64, moment.live_entries as f64),
        tips,
    )?;
    let (left, right) = second.split_horizontally(WIDTH / 2);
    let sizes = events.iter().filter_map(|event| match event.kind {
        EventKind::Map { size, .. } => Some(size),
        _ => None,
    });
    let sizes = Spread::new(sizes.collect());
    let words =
        format!(
        "{} manages {} (driver {driver}): at most {} of {} and {} of {} windows mapped; {}, the \
         largest of {}.",
        companion.companion,
        companion.device,
        text::bytes(most_bytes),
        text::bytes(companion.max_bytes),
        most_entries,
        companion.max_entries,
        text::count(sizes.count, "mapping of the driver", "mappings of the driver"),
        text::bytes(sizes.max)
    );
    let series = [("mappings", sizes.histogram, BLUE)];
    bars(
        &left,
        ("Sizes of mappings", "mappings"),
        &series,
        text::bytes,
        tips,
    )?;
    let took = |wanted: &str| {
        let took = events.iter().filter_map(|event| match &event.kind {
            EventKind::Doorbell { command, ns, .. } if &**command == wanted => Some(*ns),
            _ => None,
        });
        Spread::new(took.collect()).histogram
    };
    let series = [("map", took("map"), BLUE), ("unmap", took("unmap"), ORANGE)];
    bars(
        &right,
        ("Doorbells: time of the host", "doorbells"),
        &series,
        text::ns,
        tips,
    )?;
    ram::draw(&below, &recording.header.ram, &regions, tips)?;
    Ok(words)
}

/// A diagram of values over time.
struct Timeline {
    title: &'static str,
    unit: &'static str,
    /// The limit's name and value.
    limit: (&'static str, f64),
}

fn over_time(
    area: &Area<'_>,
    timeline: &Timeline,
    moments: &[Moment],
    values: impl Fn(&Moment) -> (f64, f64),
    tips: &Tips,
) -> Result<()> {
    let end = moments
        .last()
        .map_or(0.0, |moment| moment.seconds)
        .max(1e-3);
    let most = moments
        .iter()
        .map(|moment| values(moment).0)
        .fold(0.0, f64::max);
    let (name, limit) = timeline.limit;
    let is_near = most >= limit * NEAR;
    let top = if is_near { limit.max(most) } else { most }.max(1.0) * 1.15;
    let unit = timeline.unit;
    let title = match is_near {
        true => timeline.title.to_owned(),
        false => format!(
            "{} ({name}, {limit:.0} {unit}, is far above)",
            timeline.title
        ),
    };
    let colours = [
        ("all, idle ones included", ORANGE),
        ("in use", BLUE),
        (name, VERMILION),
    ];
    let area = head(area, &title, &colours[..if is_near { 3 } else { 2 }])?;
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .margin_right(40)
        .x_label_area_size(44)
        .y_label_area_size(AXIS)
        .build_cartesian_2d(0.0..end, 0.0..top)
        .map_err(wrong)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .bold_line_style(PALE)
        .label_style(font(LABEL))
        .axis_desc_style(font(LABEL))
        .x_desc("seconds since the first event")
        .y_label_formatter(&|value| match top > 10.0 {
            true => format!("{value:.0}"),
            false => format!("{value:.1}"),
        })
        .y_desc(unit)
        .draw()
        .map_err(wrong)?;
    let mut rest = moments;
    let mut now = moments.first();
    for strip in 0..STRIPS {
        let at = |strip: u32| end * f64::from(strip) / f64::from(STRIPS);
        let (strips, later) =
            rest.split_at(rest.partition_point(|moment| moment.seconds < at(strip + 1)));
        rest = later;
        let largest = |a: &&Moment, b: &&Moment| values(a).0.total_cmp(&values(b).0);
        now = strips.iter().max_by(largest).or(now);
        let Some(moment) = now else { break };
        let (all, live) = values(moment);
        let digits = usize::from(top <= 10.0);
        let corner = |x, y| chart.plotting_area().map_coordinate(&(x, y));
        tips.add(
            corner(at(strip), 0.0),
            corner(at(strip + 1), top),
            format!(
                "{:.3} s: {all:.digits$} {unit}, {live:.digits$} in use",
                moment.seconds
            ),
        );
        // What comes next begins with the last state of this one.
        now = strips.last().or(now);
    }
    let all = steps(moments, |moment| values(moment).0);
    let live = steps(moments, |moment| values(moment).1);
    chart
        .draw_series(AreaSeries::new(all, 0.0, ORANGE))
        .map_err(wrong)?;
    chart
        .draw_series(AreaSeries::new(live, 0.0, BLUE))
        .map_err(wrong)?;
    if is_near {
        let line = LineSeries::new([(0.0, limit), (end, limit)], VERMILION.stroke_width(3));
        chart.draw_series(line).map_err(wrong)?;
    }
    Ok(())
}

/// Returns the points of a line that is constant between changes.
fn steps(moments: &[Moment], value: impl Fn(&Moment) -> f64) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for moment in moments {
        if let Some((_, last)) = points.last() {
            points.push((moment.seconds, *last));
        }
        points.push((moment.seconds, value(moment)));
    }
    points
}

/// Draws bars of histograms by powers of two, next to each other, if there are any.
fn bars(
    area: &Area<'_>,
    (title, unit): (&str, &str),
    series: &[(&str, Histogram, RGBColor)],
    show: fn(u64) -> String,
    tips: &Tips,
) -> Result<()> {
    let series: Vec<_> = series
        .iter()
        .filter(|(_, counts, _)| !counts.is_empty())
        .collect();
    let places = series.iter().flat_map(|(_, counts, _)| counts.keys());
    let place = |from: &u64| from.checked_ilog2().unwrap_or(0);
    let (first, last) = (places.clone().map(place).min(), places.map(place).max());
    let (Some(first), Some(last)) = (first, last) else {
        let none = format!("{title}: none");
        return area
            .draw(&Text::new(none, (20, 20), font(18)))
            .map_err(wrong);
    };
    let most = series
        .iter()
        .flat_map(|(_, counts, _)| counts.values())
        .max();
    let top = most.map_or(1.0, |most| *most as f64) * 1.15;
    let colours: Vec<_> = series
        .iter()
        .map(|(name, _, colour)| (*name, *colour))
        .collect();
    let area = head(area, title, &colours)?;
    let range = f64::from(first)..f64::from(last + 1);
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .margin_right(40)
        .x_label_area_size(44)
        .y_label_area_size(AXIS)
        .build_cartesian_2d(range, 0.0..top)
        .map_err(wrong)?;
    let (count, many) = ((last - first + 1) as usize, 8);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .bold_line_style(PALE)
        .label_style(font(LABEL))
        .axis_desc_style(font(LABEL))
        .x_labels(count.min(many) + 1)
        .x_label_formatter(&|place| match place.fract() == 0.0 {
            true => show(1 << (*place as u32)),
            false => String::new(),
        })
        .x_desc("from … on, up to twice as much")
        .y_label_formatter(&|count| format!("{count:.0}"))
        .y_desc(unit)
        .draw()
        .map_err(wrong)?;
    let width = 0.9 / series.len() as f64;
    for (index, (name, counts, colour)) in series.iter().enumerate() {
        let left = |from: &u64| f64::from(place(from)) + 0.05 + width * index as f64;
        for (from, count) in counts {
            let corner = |x, y| chart.plotting_area().map_coordinate(&(x, y));
            tips.add(
                corner(left(from), 0.0),
                // A small bar is hard to meet.
                corner(left(from) + width, (*count as f64).max(top / 10.0)),
                format!("{name}: {count} from {} on", show(*from)),
            );
        }
        let bar = |(from, count): (&u64, &u64)| {
            let left = left(from);
            Rectangle::new(
                [(left, 0.0), (left + width, *count as f64)],
                colour.filled(),
            )
        };
        chart.draw_series(counts.iter().map(bar)).map_err(wrong)?;
    }
    Ok(())
}
