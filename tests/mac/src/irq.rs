// SPDX-License-Identifier: GPL-2.0

//! Interrupts as a device raises them, MSI-X vectors and others alike: eventfds from QEMU, which
//! emulates the table and the masking.

use crate::sync::lock;
use std::{
    fs::File,
    io::Write,
    sync::Mutex, //
};

#[derive(Debug, Default)]
struct Vector {
    trigger: Option<File>,
    /// Set if raised while there was no eventfd.
    pending: bool,
}

/// The vectors of one device, or its messages or pins.
#[derive(Debug)]
pub struct Msix {
    vectors: Vec<Mutex<Vector>>,
}

impl Msix {
    /// Creates `count` vectors without eventfds.
    pub fn new(count: u16) -> Self {
        Self {
            vectors: (0..count).map(|_| Mutex::default()).collect(),
        }
    }

    /// Returns the number of vectors.
    pub fn count(&self) -> u16 {
        // `new` was called with a u16.
        self.vectors.len() as u16
    }

    /// Raises `vector`. A vector that does not exist is ignored.
    pub fn raise(&self, vector: u16) {
        if let Some(vector) = self.vectors.get(usize::from(vector)) {
            let mut vector = lock(vector);
            vector.pending = !vector.fire();
        }
    }

    /// Connects or disconnects one vector. A pending interrupt is delivered.
    pub fn connect(&self, vector: u32, trigger: Option<File>) {
        if let Some(vector) = self.vectors.get(vector as usize) {
            let mut vector = lock(vector);
            vector.trigger = trigger;
            if vector.pending {
                vector.pending = !vector.fire();
            }
        }
    }

    /// Drops pending interrupts, as a reset does. Only QEMU disconnects vectors.
    pub fn clear_pending(&self) {
        for vector in &self.vectors {
            lock(vector).pending = false;
        }
    }

    /// Disconnects all vectors.
    pub fn disconnect(&self) {
        for vector in &self.vectors {
            *lock(vector) = Vector::default();
        }
    }
}

impl Vector {
    /// Fires the interrupt; returns whether that was possible.
    fn fire(&mut self) -> bool {
        match &mut self.trigger {
            // A write to an eventfd is 8 bytes. It fails only if the counter is full, and then an
            // interrupt is pending anyhow.
            Some(eventfd) => {
                let _ = eventfd.write(&1u64.to_ne_bytes());
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Read,
        os::{
            fd::OwnedFd,
            unix::net::UnixStream, //
        },
    };

    #[test]
    fn pending_is_delivered_on_connect() {
        let msix = Msix::new(2);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        msix.raise(1);
        msix.raise(7);
        msix.connect(1, Some(File::from(OwnedFd::from(theirs))));
        let mut buf = [0; 32];
        assert_eq!(ours.read(&mut buf).unwrap(), 8);
        msix.raise(1);
        assert_eq!(ours.read(&mut buf).unwrap(), 8);
        msix.raise(0);
        assert!(ours.read(&mut buf).is_err());
        msix.clear_pending();
        msix.disconnect();
    }
}
