// SPDX-License-Identifier: GPL-2.0

//! Guest RAM as a map of cells, each in the colour of the windows in it.

use super::dress::Tips;
use super::picture::{
    font,
    keys,
    wrong,
    Area,
    BLUE,
    GREEN,
    ORANGE,
    PALE,
    VERMILION, //
};
use crate::debugfs::WindowStatus;
use crate::history::Region;
use crate::text;
use anyhow::Result;
use apple_dma_replay::GRANULE;
use plotters::prelude::*;

/// Sizes, in pixels.
const HEAD: u32 = 66;
const LEFT: u32 = 120;
const MARGIN: u32 = 20;
const CELL: u32 = 8;

/// Maximum number of rows of cells; larger RAM has larger cells.
const ROWS: u64 = 64;

/// Number of rows per address at their side. An address is as high as two rows.
const ADDRESS_EVERY: u64 = 4;

/// Returns the bytes of a cell, and the cells of a row.
fn scale(ram: &[(u64, u64)], width: u32) -> (u64, u64) {
    // A power of two, so that addresses are round.
    let columns = u64::from((width - LEFT - MARGIN) / CELL);
    let columns = 1 << columns.ilog2();
    let rows = |cell: u64| {
        ram.iter()
            .map(|(_, bytes)| bytes.div_ceil(cell * columns))
            .sum::<u64>()
    };
    let mut cell = GRANULE;
    while rows(cell) > ROWS.max(ram.len() as u64) {
        cell *= 2;
    }
    (cell, columns)
}

/// Returns the height of the map.
pub fn height(ram: &[(u64, u64)], width: u32) -> u32 {
    let (cell, columns) = scale(ram, width);
    let rows: u64 = ram
        .iter()
        .map(|(_, bytes)| bytes.div_ceil(cell * columns))
        .sum();
    // There are few rows.
    HEAD + rows as u32 * CELL + 2 * MARGIN
}

/// The state of a cell: of the window in it, if there is any.
type State = Option<WindowStatus>;

fn name(state: State) -> &'static str {
    match state {
        Some(WindowStatus::Live) => "in use",
        Some(WindowStatus::Idle | WindowStatus::Returning) => "idle",
        Some(WindowStatus::Fixed) => "permanently mapped",
        Some(WindowStatus::Lost) => "lost",
        None => "not mapped",
    }
}

fn colour(state: State) -> RGBColor {
    match state {
        Some(WindowStatus::Live) => BLUE,
        Some(WindowStatus::Idle | WindowStatus::Returning) => ORANGE,
        Some(WindowStatus::Fixed) => GREEN,
        Some(WindowStatus::Lost) => VERMILION,
        None => PALE,
    }
}

/// Returns the rank of a status: the highest one in a cell colours the cell.
fn rank(state: WindowStatus) -> u8 {
    match state {
        WindowStatus::Lost => 3,
        WindowStatus::Live => 2,
        WindowStatus::Idle | WindowStatus::Returning => 1,
        WindowStatus::Fixed => 0,
    }
}

/// Draws the map.
pub fn draw(area: &Area<'_>, ram: &[(u64, u64)], regions: &[Region], tips: &Tips) -> Result<()> {
    let (width, _) = area.dim_in_pixel();
    let (cell, columns) = scale(ram, width);
    let title = format!(
        "Guest RAM when most was mapped: a cell is {}, a row {}",
        text::bytes(cell),
        text::bytes(cell * columns)
    );
    area.draw(&Text::new(title, (20, 10), font(18)))
        .map_err(wrong)?;
    let mut states: Vec<_> = regions.iter().map(|region| Some(region.state)).collect();
    states.push(None);
    let colours: Vec<_> = [
        Some(WindowStatus::Live),
        Some(WindowStatus::Idle),
        Some(WindowStatus::Fixed),
        Some(WindowStatus::Lost),
        None,
    ]
    .into_iter()
    .filter(|state| states.contains(state))
    .map(|state| (name(state), colour(state)))
    .collect();
    keys(area, (LEFT as i32, 40), &colours)?;
    let mut row = 0;
    for (start, bytes) in ram {
        let states = states_of((*start, *bytes), regions, cell);
        block(area, *start, &states, (cell, columns), &mut row, tips)?;
    }
    Ok(())
}

/// Returns the states of all cells of a block of RAM.
fn states_of((start, bytes): (u64, u64), regions: &[Region], cell: u64) -> Vec<State> {
    let mut states: Vec<State> = vec![None; bytes.div_ceil(cell) as usize];
    for region in regions {
        let end = (region.gpa + region.bytes).min(start + bytes);
        let begin = region.gpa.max(start);
        if begin >= end {
            continue;
        }
        let covered = (begin - start) / cell..(end - start).div_ceil(cell);
        for state in &mut states[covered.start as usize..covered.end as usize] {
            if state.is_none_or(|state| rank(state) < rank(region.state)) {
                *state = Some(region.state);
            }
        }
    }
    states
}

/// Draws a block of RAM, starting with a row of its own.
fn block(
    area: &Area<'_>,
    start: u64,
    states: &[State],
    (cell, columns): (u64, u64),
    row: &mut u64,
    tips: &Tips,
) -> Result<()> {
    let rows = states.len().div_ceil(columns as usize);
    let (left, top) = area.get_base_pixel();
    for (index, cells) in states.chunks(columns as usize).enumerate() {
        let y = (HEAD + *row as u32 * CELL) as i32;
        let address = start + index as u64 * cell * columns;
        // The row below the last one is the next block's.
        if index as u64 % ADDRESS_EVERY == 0 && index + 1 < rows {
            let address = format!("{address:#x}");
            area.draw(&Text::new(address, (16, y - 3), font(13)))
                .map_err(wrong)?;
        }
        let (mut x, mut address) = (LEFT as i32, address);
        // Neighbours of one colour are one box.
        for run in cells.chunk_by(|a, b| a == b) {
            let end = x + run.len() as i32 * CELL as i32;
            let bottom = y + CELL as i32 - 1;
            let cells = Rectangle::new([(x, y), (end, bottom)], colour(run[0]).filled());
            area.draw(&cells).map_err(wrong)?;
            let bytes = run.len() as u64 * cell;
            if run[0].is_some() {
                tips.add(
                    (left + x, top + y),
                    (left + end, top + bottom),
                    format!("{address:#x}, {}: {}", text::bytes(bytes), name(run[0])),
                );
            }
            x = end;
            address += bytes;
        }
        *row += 1;
    }
    Ok(())
}
