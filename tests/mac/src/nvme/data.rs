// SPDX-License-Identifier: GPL-2.0

//! Transfer of a command's data, page by page, while its queue lives.

use crate::bus::Bus;
use crate::nvme::prp::{
    self,
    Segment, //
};
use crate::nvme::queue::SubmissionQueue;
use crate::nvme::spec::{
    Command,
    Status, //
};

/// A command with its data pointer.
pub struct Transfer<'a> {
    /// The device's side of the bus.
    pub bus: &'a Bus,
    /// The queue of the command.
    pub sq: &'a SubmissionQueue,
    /// The command.
    pub command: &'a Command,
    /// Bytes of a page.
    pub page: usize,
}

impl Transfer<'_> {
    /// Copies `data` to the guest.
    pub fn to_guest(&self, data: &[u8]) -> Result<(), Status> {
        let mut rest = data;
        for segment in self.segments(data.len())? {
            let (piece, tail) = rest.split_at(segment.len);
            self.alive()?;
            self.bus
                .write(segment.iova, piece)
                .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            rest = tail;
        }
        Ok(())
    }

    /// Copies `len` bytes from the guest.
    pub fn from_guest(&self, len: usize) -> Result<Vec<u8>, Status> {
        let mut data = vec![0; len];
        let mut rest = &mut data[..];
        for segment in self.segments(len)? {
            let (piece, tail) = rest.split_at_mut(segment.len);
            self.alive()?;
            self.bus
                .read(segment.iova, piece)
                .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            rest = tail;
        }
        Ok(data)
    }

    fn segments(&self, len: usize) -> Result<Vec<Segment>, Status> {
        let (prp1, prp2) = (self.command.prp1(), self.command.prp2());
        prp::segments(self.bus, prp1, prp2, len, self.page).map_err(|e| e.status())
    }

    /// Fails if the queue is being deleted, as it moves no more data then.
    fn alive(&self) -> Result<(), Status> {
        match self.sq.stopped() {
            true => Err(Status::ABORTED_SQ_DELETION),
            false => Ok(()),
        }
    }
}
