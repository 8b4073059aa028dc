// SPDX-License-Identifier: GPL-2.0

//! Commands of I/O queues: the NVM command set.

use crate::nvme::controller::Core;
use crate::nvme::data::Transfer;
use crate::nvme::identify::NSID;
use crate::nvme::queue::SubmissionQueue;
use crate::nvme::spec::{
    io,
    Command,
    Status,
    ALL_NAMESPACES, //
};
use crate::sync::lock;
use std::time::Instant;

/// Bytes of a range of dataset management.
const DSM_RANGE: usize = 16;
/// Dataset management: deallocate.
const DSM_DEALLOCATE: u32 = 1 << 2;

/// Executes a command.
pub fn execute(core: &Core, sq: &SubmissionQueue, command: &Command) -> Result<(), Status> {
    if command.fused_or_sgl() {
        return Err(Status::INVALID_FIELD);
    }
    let opcode = command.opcode();
    match command.nsid() {
        NSID => (),
        ALL_NAMESPACES if opcode == io::FLUSH => (),
        _ => return Err(Status::INVALID_NAMESPACE),
    }
    sq.pause(core.delay);
    let transfer = Transfer {
        bus: &core.bus,
        sq,
        command,
        page: core.page(),
    };
    match opcode {
        // Writes are in the host's page cache, which is the medium.
        io::FLUSH => Ok(()),
        io::READ => {
            let (offset, len) = blocks(core, command, true)?;
            sq.pause(core.pace.take(len, Instant::now()));
            let data = fetch(core, offset, len as usize)?;
            transfer.to_guest(&data)?;
            let mut smart = lock(&core.smart);
            smart.read += len;
            smart.reads += 1;
            Ok(())
        }
        io::WRITE => {
            let (offset, len) = blocks(core, command, true)?;
            sq.pause(core.pace.take(len, Instant::now()));
            let data = transfer.from_guest(len as usize)?;
            core.disk.write(offset, &data).map_err(write_fault)?;
            let mut smart = lock(&core.smart);
            smart.written += len;
            smart.writes += 1;
            Ok(())
        }
        io::COMPARE => {
            let (offset, len) = blocks(core, command, true)?;
            let theirs = transfer.from_guest(len as usize)?;
            match fetch(core, offset, len as usize)? == theirs {
                true => Ok(()),
                false => Err(Status::COMPARE_FAILURE),
            }
        }
        io::VERIFY => {
            let (offset, len) = blocks(core, command, false)?;
            for at in (0..len).step_by(core.params.mdts) {
                let piece = (len - at).min(core.params.mdts as u64);
                fetch(core, offset + at, piece as usize)?;
            }
            Ok(())
        }
        io::WRITE_ZEROES => {
            let (offset, len) = blocks(core, command, false)?;
            core.disk.zero(offset, len).map_err(write_fault)
        }
        io::DATASET_MANAGEMENT => manage(core, &transfer),
        _ => Err(Status::INVALID_OPCODE),
    }
}

/// Returns offset and length in bytes of the blocks of a command. With `moves` their data moves, so
/// it may not be too long.
fn blocks(core: &Core, command: &Command, moves: bool) -> Result<(u64, u64), Status> {
    let count = u64::from(command.cdw(12) & 0xffff) + 1;
    if moves && count << core.disk.lba_shift() > core.params.mdts as u64 {
        return Err(Status::INVALID_FIELD);
    }
    core.disk
        .range(command.qword(10), count)
        .ok_or(Status::LBA_OUT_OF_RANGE)
}

fn fetch(core: &Core, offset: u64, len: usize) -> Result<Vec<u8>, Status> {
    let mut data = vec![0; len];
    core.disk.read(offset, &mut data).map_err(|e| {
        log::error!("{}: image: {e}", core.bus.name);
        Status::READ_ERROR
    })?;
    Ok(data)
}

fn write_fault(e: std::io::Error) -> Status {
    log::error!("image: {e}");
    Status::WRITE_FAULT
}

/// Handles dataset management: all ranges are checked before the first is changed.
fn manage(core: &Core, transfer: &Transfer<'_>) -> Result<(), Status> {
    let count = (transfer.command.cdw(10) & 0xff) as usize + 1;
    let list = transfer.from_guest(count * DSM_RANGE)?;
    let mut ranges = Vec::with_capacity(count);
    for range in list.chunks_exact(DSM_RANGE) {
        let mut blocks = [0; 4];
        blocks.copy_from_slice(&range[4..8]);
        let mut lba = [0; 8];
        lba.copy_from_slice(&range[8..16]);
        let count = u64::from(u32::from_le_bytes(blocks));
        let range = core
            .disk
            .range(u64::from_le_bytes(lba), count)
            .ok_or(Status::LBA_OUT_OF_RANGE)?;
        ranges.push(range);
    }
    if transfer.command.cdw(11) & DSM_DEALLOCATE == 0 {
        return Ok(());
    }
    for (offset, len) in ranges.into_iter().filter(|(_, len)| *len != 0) {
        core.disk.zero(offset, len).map_err(write_fault)?;
    }
    Ok(())
}
