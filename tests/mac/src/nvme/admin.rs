// SPDX-License-Identifier: GPL-2.0

//! Commands of the admin queue.

use crate::nvme::controller::Core;
use crate::nvme::data::Transfer;
use crate::nvme::identify::{
    self,
    MAX_ASYNC_EVENTS,
    NSID, //
};
use crate::nvme::queue::{
    CompletionQueue,
    SubmissionQueue, //
};
use crate::nvme::spec::{
    admin,
    cc_entry_sizes,
    feature,
    Command,
    Status,
    ALL_NAMESPACES,
    CQE_SIZE,
    MAX_ENTRIES,
    SQE_SIZE, //
};
use crate::sync::lock;
use std::sync::Arc;

/// Executes a command. Returns CDW0 of its completion; `None` if the command never completes.
pub fn execute(
    core: &Arc<Core>,
    sq: &SubmissionQueue,
    command: &Command,
) -> Result<Option<u32>, Status> {
    if command.fused_or_sgl() {
        return Err(Status::INVALID_FIELD);
    }
    let transfer = Transfer {
        bus: &core.bus,
        sq,
        command,
        page: core.page(),
    };
    let done = |()| Some(0);
    match command.opcode() {
        admin::CREATE_CQ => create_cq(core, command).map(done),
        admin::DELETE_CQ => delete_cq(core, command).map(done),
        admin::CREATE_SQ => create_sq(core, command).map(done),
        admin::DELETE_SQ => delete_sq(core, command).map(done),
        admin::IDENTIFY => transfer.to_guest(&identify(core, command)?).map(done),
        admin::GET_LOG_PAGE => transfer.to_guest(&log_page(core, command)?).map(done),
        admin::SET_FEATURES => set_feature(core, command).map(Some),
        admin::GET_FEATURES => get_feature(core, command).map(Some),
        // Bit 0: the command was not aborted. The only commands that last are asynchronous event
        // requests, which may last.
        admin::ABORT => Ok(Some(1)),
        admin::ASYNC_EVENT => {
            let mut state = lock(&core.state);
            if state.async_events == MAX_ASYNC_EVENTS {
                return Err(Status::ASYNC_EVENT_LIMIT);
            }
            state.async_events += 1;
            Ok(None)
        }
        _ => Err(Status::INVALID_OPCODE),
    }
}

/// Parses (number, entries) of a queue to be created.
fn queue(core: &Core, command: &Command) -> Result<(u16, u32), Status> {
    let id = command.cdw(10) as u16;
    let size = (command.cdw(10) >> 16) + 1;
    if id == 0 || id > core.params.queues {
        return Err(Status::INVALID_QUEUE_ID);
    }
    if !(2..=MAX_ENTRIES).contains(&size) {
        return Err(Status::INVALID_QUEUE_SIZE);
    }
    // Physically contiguous, as CAP.CQR demands.
    if command.cdw(11) & 1 == 0 {
        return Err(Status::INVALID_FIELD);
    }
    if command.prp1().0 % core.page() as u64 != 0 {
        return Err(Status::PRP_OFFSET);
    }
    let sizes = cc_entry_sizes(core.cc());
    if sizes != (SQE_SIZE.trailing_zeros(), CQE_SIZE.trailing_zeros()) {
        return Err(Status::INVALID_FIELD);
    }
    Ok((id, size))
}

fn create_cq(core: &Core, command: &Command) -> Result<(), Status> {
    let (id, size) = queue(core, command)?;
    let vector = (command.cdw(11) >> 16) as u16;
    if vector >= core.bus.msix.count() {
        return Err(Status::INVALID_VECTOR);
    }
    let enabled = command.cdw(11) & 2 != 0;
    let mut state = lock(&core.state);
    if state.cqs.contains_key(&id) {
        return Err(Status::INVALID_QUEUE_ID);
    }
    let cq = CompletionQueue::new(command.prp1(), size, enabled.then_some(vector));
    state.cqs.insert(id, Arc::new(cq));
    Ok(())
}

fn delete_cq(core: &Core, command: &Command) -> Result<(), Status> {
    let id = command.cdw(10) as u16;
    let mut state = lock(&core.state);
    if id == 0 || !state.cqs.contains_key(&id) {
        return Err(Status::INVALID_QUEUE_ID);
    }
    if state.sqs.values().any(|worker| worker.sq.cq_id == id) {
        return Err(Status::INVALID_QUEUE_DELETION);
    }
    state.cqs.remove(&id);
    Ok(())
}

fn create_sq(core: &Arc<Core>, command: &Command) -> Result<(), Status> {
    let (id, size) = queue(core, command)?;
    let cq_id = (command.cdw(11) >> 16) as u16;
    let cq = {
        let state = lock(&core.state);
        if state.sqs.contains_key(&id) {
            return Err(Status::INVALID_QUEUE_ID);
        }
        match state.cqs.get(&cq_id) {
            Some(cq) if cq_id != 0 => cq.clone(),
            _ => return Err(Status::CQ_INVALID),
        }
    };
    let sq = SubmissionQueue::new(id, command.prp1(), size, cq, cq_id);
    core.start(Arc::new(sq)).map_err(|e| {
        log::error!("{}: no thread for queue {id}: {e}", core.bus.name);
        Status::INVALID_QUEUE_ID
    })
}

fn delete_sq(core: &Core, command: &Command) -> Result<(), Status> {
    let id = command.cdw(10) as u16;
    match id != 0 && core.stop(id) {
        true => Ok(()),
        false => Err(Status::INVALID_QUEUE_ID),
    }
}

fn identify(core: &Core, command: &Command) -> Result<Vec<u8>, Status> {
    let name = &core.bus.name;
    let nsid = command.nsid();
    let csi = command.cdw(11) >> 24;
    match command.cdw(10) & 0xff {
        0x00 if nsid == NSID => Ok(identify::namespace(name, &core.disk)),
        0x01 => Ok(identify::controller(name, &core.params)),
        0x02 if nsid < ALL_NAMESPACES - 1 => Ok(identify::active(nsid)),
        0x03 if nsid == NSID => Ok(identify::descriptors(name)),
        0x00 | 0x02 | 0x03 => Err(Status::INVALID_NAMESPACE),
        // Fields of the NVM command set: nothing is reported, so no limits.
        0x05 if csi == 0 && nsid == NSID => Ok(vec![0; identify::SIZE]),
        0x06 if csi == 0 => Ok(vec![0; identify::SIZE]),
        _ => Err(Status::INVALID_FIELD),
    }
}

fn log_page(core: &Core, command: &Command) -> Result<Vec<u8>, Status> {
    let id = command.cdw(10) as u8;
    let smart = *lock(&core.smart);
    let page = identify::log_page(id, &smart).ok_or(Status::INVALID_LOG_PAGE)?;
    let dwords = u64::from(command.cdw(10) >> 16) | (u64::from(command.cdw(11) & 0xffff) << 16);
    let len = (dwords + 1) * 4;
    let offset = command.qword(12);
    if offset % 4 != 0 || offset > page.len() as u64 || len > core.params.mdts as u64 {
        return Err(Status::INVALID_FIELD);
    }
    // Requested bytes beyond the end of the page read as zeroes.
    let mut data = page[offset as usize..].to_vec();
    data.resize(len as usize, 0);
    Ok(data)
}

/// Checks a feature's identifier and returns the key of its value, and its default.
fn known(core: &Core, command: &Command) -> Result<(u32, u32), Status> {
    let cdw11 = command.cdw(11);
    match command.cdw(10) as u8 {
        feature::TEMPERATURE_THRESHOLD => {
            // Threshold over or under, of a sensor: only the composite one exists.
            let select = (cdw11 >> 16) & 0x3f;
            match select {
                0x00 => Ok((select, identify::WARNING_TEMPERATURE.into())),
                0x10 => Ok((select, 0)),
                _ => Err(Status::INVALID_FIELD),
            }
        }
        feature::VOLATILE_WRITE_CACHE => Ok((0, 1)),
        feature::NUMBER_OF_QUEUES => {
            let n = u32::from(core.params.queues) - 1;
            Ok((0, n | (n << 16)))
        }
        feature::INTERRUPT_VECTOR => {
            let vector = cdw11 & 0xffff;
            match vector < core.bus.msix.count().into() {
                true => Ok((vector, vector)),
                false => Err(Status::INVALID_FIELD),
            }
        }
        feature::ARBITRATION
        | feature::POWER_MANAGEMENT
        | feature::ERROR_RECOVERY
        | feature::INTERRUPT_COALESCING
        | feature::WRITE_ATOMICITY
        | feature::ASYNC_EVENT => Ok((0, 0)),
        _ => Err(Status::INVALID_FIELD),
    }
}

fn set_feature(core: &Core, command: &Command) -> Result<u32, Status> {
    let id = command.cdw(10) as u8;
    let (select, default) = known(core, command)?;
    let value = command.cdw(11);
    // No value outlives a reset.
    if command.cdw(10) >> 31 != 0 {
        return Err(Status::INVALID_FIELD);
    }
    let mut state = lock(&core.state);
    match id {
        feature::NUMBER_OF_QUEUES => {
            if value & 0xffff == 0xffff || value >> 16 == 0xffff {
                return Err(Status::INVALID_FIELD);
            }
            if state.cqs.len() > 1 {
                return Err(Status::COMMAND_SEQUENCE);
            }
            // The reply is the same for any request.
            Ok(default)
        }
        // There is one power state.
        feature::POWER_MANAGEMENT if value & 0x1f != 0 => Err(Status::INVALID_FIELD),
        _ => {
            state.features.insert((id, select), value);
            Ok(0)
        }
    }
}

fn get_feature(core: &Core, command: &Command) -> Result<u32, Status> {
    let id = command.cdw(10) as u8;
    let (select, default) = known(core, command)?;
    let state = lock(&core.state);
    let current = state
        .features
        .get(&(id, select))
        .copied()
        .unwrap_or(default);
    match (command.cdw(10) >> 8) & 7 {
        0 => Ok(current),
        1 | 2 => Ok(default),
        // Capabilities: changeable, not saveable, not per namespace.
        3 => Ok(1 << 2),
        _ => Err(Status::INVALID_FIELD),
    }
}
