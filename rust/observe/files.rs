// SPDX-License-Identifier: GPL-2.0

//! The files of a companion in debugfs and sysfs: a safe wrapper of `files.c`, which has their
//! places, names and modes. Their contents are the business of the implementation of [`Inspect`].

use crate::abstractions::raw;
use crate::addr::Address;
use crate::bindings::{
    self,
    apple_dma_files_summary,
    apple_dma_files_vtable,
    apple_dma_files_window, //
};
use crate::engine::index::arena::Id;
use crate::engine::{
    Limit,
    Pressure,
    WindowInfo, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    device::Bound,
    error::from_err_ptr,
    ffi::{
        c_char,
        c_int,
        c_uint,
        c_void, //
    },
    pci,
    prelude::*,
    seq_file::SeqFile,
    sync::Arc, //
};

/// A file in debugfs that has lines of names and values.
#[derive(Clone, Copy)]
pub(crate) enum FileKind {
    /// Configuration and use.
    Status,
    /// Numbers of events.
    Counters,
    /// Numbers of doorbells.
    Doorbells,
    /// Numbers of windows by size.
    Sizes,
}

impl FileKind {
    fn new(kind: c_uint) -> Option<Self> {
        match kind {
            bindings::apple_dma_files_kind_APPLE_DMA_FILES_STATUS => Some(FileKind::Status),
            bindings::apple_dma_files_kind_APPLE_DMA_FILES_COUNTERS => Some(FileKind::Counters),
            bindings::apple_dma_files_kind_APPLE_DMA_FILES_DOORBELLS => Some(FileKind::Doorbells),
            bindings::apple_dma_files_kind_APPLE_DMA_FILES_SIZES => Some(FileKind::Sizes),
            _ => None,
        }
    }
}

/// The attributes in sysfs, readable by all users.
pub(crate) struct Summary<'a> {
    /// The managed device.
    pub(crate) managed: &'a CStr,
    /// The name of the mode.
    pub(crate) mode: &'static CStr,
    /// Bytes mapped now, and their limit.
    pub(crate) bytes: (u64, u64),
    /// Windows now, and their limit.
    pub(crate) entries: (u32, u32),
}

/// The contents of the files.
///
/// Context of all methods: process, may sleep; called by several threads at once.
pub(crate) trait Inspect: Send + Sync {
    /// Writes the lines of the file `kind`; fails if there is no memory for a snapshot.
    fn show(&self, kind: FileKind, file: &SeqFile) -> Result;

    /// Returns the first window whose number is at least `from`, with its number.
    fn window(&self, from: Id) -> Option<(Id, WindowInfo)>;

    /// Returns the attributes in sysfs.
    fn summary(&self) -> Summary<'_>;

    /// Sets a limit to the number that was written to its attribute; 0 for other text.
    fn set_limit(&self, limit: Limit, value: u64) -> Result;

    /// Returns the pressure on the limits.
    fn pressure(&self) -> Pressure;

    /// Sets all peaks to the values now.
    fn reset_peaks(&self);
}

/// Wakes up those that poll the attribute of the pressure of `companion`, if it has files.
///
/// Context: process, may sleep.
pub(crate) fn notify_pressure(companion: &pci::Device<Bound>) {
    // SAFETY: The device is valid.
    unsafe { bindings::apple_dma_files_notify_pressure(raw::device(companion)) };
}

/// The module's directory in debugfs, of which there is one, as long as the module is loaded.
pub(crate) struct DebugfsRoot(());

impl DebugfsRoot {
    /// Creates the directory.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new() -> Self {
        // SAFETY: Called once when the module is loaded, before there is any companion.
        unsafe { bindings::apple_dma_files_init() };
        Self(())
    }
}

impl Drop for DebugfsRoot {
    fn drop(&mut self) {
        // SAFETY: The directory was created, and there is no companion any more.
        unsafe { bindings::apple_dma_files_exit() };
    }
}

/// The files of a companion, which exist for as long as this does.
///
/// # Invariants
///
/// `files` is what `apple_dma_files_create()` returned for the subject, and was not destroyed.
pub(crate) struct DeviceFiles<'a, S> {
    files: NonNull<bindings::apple_dma_files>,
    _subject: Arc<S>,
    _companion: &'a pci::Device<Bound>,
}

// SAFETY: The C structure belongs to no thread, and the subject is `Send` and `Sync`.
unsafe impl<S: Inspect> Send for DeviceFiles<'_, S> {}

// SAFETY: A shared reference has no methods.
unsafe impl<S: Inspect> Sync for DeviceFiles<'_, S> {}

impl<'a, S: Inspect> DeviceFiles<'a, S> {
    /// Creates the files of `companion`, which has none yet, with the contents of `subject`.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(companion: &'a pci::Device<Bound>, subject: Arc<S>) -> Result<Self> {
        // SAFETY: The device is valid, and bound until `drop`. The subject is not moved and not
        // freed until then either, since this owns a reference to it.
        let files = from_err_ptr(unsafe {
            bindings::apple_dma_files_create(
                raw::device(companion),
                Vtable::<S>::TABLE,
                (&raw const *subject).cast(),
            )
        })?;
        // INVARIANT: `files` was just created.
        Ok(Self {
            files: NonNull::new(files).ok_or(ENOMEM)?,
            _subject: subject,
            _companion: companion,
        })
    }
}

impl<S> Drop for DeviceFiles<'_, S> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. The subject is not used by the files after this.
        unsafe { bindings::apple_dma_files_destroy(self.files.as_ptr()) };
    }
}

/// The functions that C calls for subjects of type `S`.
struct Vtable<S>(PhantomData<S>);

impl<S: Inspect> Vtable<S> {
    const TABLE: &'static apple_dma_files_vtable = &apple_dma_files_vtable {
        show: Some(show::<S>),
        window: Some(window::<S>),
        summary: Some(summary::<S>),
        set_limit: Some(set_limit::<S>),
        pressure: Some(pressure::<S>),
        reset_peaks: Some(reset_peaks::<S>),
    };
}

/// Writes the lines of a file.
///
/// # Safety
///
/// `subject` points to an `S`, and `file` to a file that is being read.
unsafe extern "C" fn show<S: Inspect>(
    subject: *const c_void,
    kind: c_uint,
    file: *mut kernel::bindings::seq_file,
) -> c_int {
    // SAFETY: By the safety requirements.
    let (subject, file) = unsafe { (&*subject.cast::<S>(), SeqFile::from_raw(file)) };
    match FileKind::new(kind).map(|kind| subject.show(kind, file)) {
        Some(Err(error)) => error.to_errno(),
        Some(Ok(())) | None => 0,
    }
}

/// Finds a window for a line of the file of windows.
///
/// # Safety
///
/// `subject` points to an `S`, `id` is valid for reads and writes, `window` for writes.
unsafe extern "C" fn window<S: Inspect>(
    subject: *const c_void,
    id: *mut u32,
    window: *mut apple_dma_files_window,
) -> bool {
    // SAFETY: By the safety requirements.
    let (subject, from) = unsafe { (&*subject.cast::<S>(), *id) };
    let Some((found, info)) = subject.window(from) else {
        return false;
    };
    // SAFETY: By the safety requirements.
    unsafe {
        *id = found;
        window.write(apple_dma_files_window {
            gpa: info.span.start().raw(),
            dma_addr: info.iova.raw(),
            len: info.span.len(),
            users: info.users,
            uses: info.uses,
            state: info.status.name().as_char_ptr(),
        });
    }
    true
}

/// Fills in the attributes.
///
/// # Safety
///
/// `subject` points to an `S`, and `summary` is valid for writes.
unsafe extern "C" fn summary<S: Inspect>(
    subject: *const c_void,
    summary: *mut apple_dma_files_summary,
) {
    // SAFETY: By the safety requirements.
    let subject = unsafe { &*subject.cast::<S>() };
    let now = subject.summary();
    // SAFETY: By the safety requirements. The strings are the subject's, or live forever.
    unsafe {
        summary.write(apple_dma_files_summary {
            managed: now.managed.as_char_ptr(),
            mode: now.mode.as_char_ptr(),
            bytes: now.bytes.0,
            max_bytes: now.bytes.1,
            entries: now.entries.0.into(),
            max_entries: now.entries.1.into(),
        });
    }
}

/// Sets a limit.
///
/// # Safety
///
/// `subject` points to an `S`.
unsafe extern "C" fn set_limit<S: Inspect>(
    subject: *const c_void,
    is_entries: bool,
    value: u64,
) -> c_int {
    // SAFETY: By the safety requirements.
    let subject = unsafe { &*subject.cast::<S>() };
    let limit = if is_entries {
        Limit::Entries
    } else {
        Limit::Bytes
    };
    match subject.set_limit(limit, value) {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// Returns the name of the level of the pressure.
///
/// # Safety
///
/// `subject` points to an `S`.
unsafe extern "C" fn pressure<S: Inspect>(subject: *const c_void) -> *const c_char {
    // SAFETY: By the safety requirements.
    let subject = unsafe { &*subject.cast::<S>() };
    subject.pressure().name().as_char_ptr()
}

/// Resets the peaks.
///
/// # Safety
///
/// `subject` points to an `S`.
unsafe extern "C" fn reset_peaks<S: Inspect>(subject: *const c_void) {
    // SAFETY: By the safety requirements.
    let subject = unsafe { &*subject.cast::<S>() };
    subject.reset_peaks();
}
