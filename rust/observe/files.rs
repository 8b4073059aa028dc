// SPDX-License-Identifier: GPL-2.0

//! Files in debugfs and sysfs that show a companion: safe wrappers of `files.c`.

use crate::abstractions::raw;
use crate::addr::Address;
use crate::bindings::{
    self,
    apple_dma_files_summary,
    apple_dma_files_vtable,
    apple_dma_files_window, //
};
use crate::engine::index::arena::Id;
use crate::engine::WindowInfo;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    device::Bound,
    error::from_err_ptr,
    ffi::{
        c_int,
        c_uint,
        c_void, //
    },
    pci,
    prelude::*,
    seq_file::SeqFile,
    sync::Arc, //
};

/// A file of names and values.
#[derive(Clone, Copy)]
pub(crate) enum FileKind {
    /// What is managed, how, and what it takes.
    Status,
    /// What happened so far.
    Counters,
    /// What was sent to the host.
    Doorbells,
    /// How many windows there are of which size.
    Sizes,
}

impl FileKind {
    fn new(page: c_uint) -> Option<Self> {
        match page {
            bindings::apple_dma_files_kind_APPLE_DMA_FILES_STATUS => Some(FileKind::Status),
            bindings::apple_dma_files_kind_APPLE_DMA_FILES_COUNTERS => Some(FileKind::Counters),
            bindings::apple_dma_files_kind_APPLE_DMA_FILES_DOORBELLS => Some(FileKind::Doorbells),
            bindings::apple_dma_files_kind_APPLE_DMA_FILES_SIZES => Some(FileKind::Sizes),
            _ => None,
        }
    }
}

/// What anyone may know.
pub(crate) struct Summary<'a> {
    /// The managed device.
    pub(crate) managed: &'a CStr,
    /// How its memory is mapped.
    pub(crate) mode: &'static CStr,
    /// Bytes mapped, and the most that may be.
    pub(crate) bytes: (u64, u64),
    /// Mappings, and the most that there may be.
    pub(crate) entries: (u32, u32),
}

/// What is looked at. All of this is called in process context, by several threads at once.
pub(crate) trait Inspect: Send + Sync {
    /// Writes what is on `page`; fails if there is no memory to find out.
    fn show(&self, page: FileKind, file: &SeqFile) -> Result;

    /// The first window from the number `from` on, with its number.
    fn window(&self, from: Id) -> Option<(Id, WindowInfo)>;

    /// What sysfs shows.
    fn summary(&self) -> Summary<'_>;
}

/// The module's directory in debugfs. One of them, as long as the module is there.
pub(crate) struct DebugfsRoot(());

impl DebugfsRoot {
    /// May sleep.
    pub(crate) fn new() -> Self {
        // SAFETY: Called when the module is loaded, before there is any companion.
        unsafe { bindings::apple_dma_files_init() };
        Self(())
    }
}

impl Drop for DebugfsRoot {
    fn drop(&mut self) {
        // SAFETY: It was made, and no companion is there any more.
        unsafe { bindings::apple_dma_files_exit() };
    }
}

/// Shows a subject for as long as it lives.
///
/// # Invariants
///
/// The pointer is what `apple_dma_files_create()` made for the subject.
pub(crate) struct DeviceFiles<'a, S> {
    files: NonNull<bindings::apple_dma_files>,
    _subject: Arc<S>,
    _companion: &'a pci::Device<Bound>,
}

// SAFETY: Nothing in it belongs to a thread.
unsafe impl<S: Inspect> Send for DeviceFiles<'_, S> {}

// SAFETY: Nothing can be done by a shared reference.
unsafe impl<S: Inspect> Sync for DeviceFiles<'_, S> {}

impl<'a, S: Inspect> DeviceFiles<'a, S> {
    /// Shows `subject` in the files of `companion`, which has no others yet. May sleep.
    pub(crate) fn new(companion: &'a pci::Device<Bound>, subject: Arc<S>) -> Result<Self> {
        // SAFETY: The device is valid, and bound until `drop`. The subject stays where it is, and
        // is there until then, too.
        let files = from_err_ptr(unsafe {
            bindings::apple_dma_files_create(
                raw::device(companion),
                Vtable::<S>::TABLE,
                (&raw const *subject).cast(),
            )
        })?;
        Ok(Self {
            files: NonNull::new(files).ok_or(ENOMEM)?,
            _subject: subject,
            _companion: companion,
        })
    }
}

impl<S> Drop for DeviceFiles<'_, S> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. Nobody looks at the subject after this.
        unsafe { bindings::apple_dma_files_destroy(self.files.as_ptr()) };
    }
}

struct Vtable<S>(PhantomData<S>);

impl<S: Inspect> Vtable<S> {
    const TABLE: &'static apple_dma_files_vtable = &apple_dma_files_vtable {
        show: Some(show::<S>),
        window: Some(window::<S>),
        summary: Some(summary::<S>),
    };
}

/// # Safety
///
/// `subject` is an `S`, and `file` a file that is being read.
unsafe extern "C" fn show<S: Inspect>(
    subject: *const c_void,
    page: c_uint,
    file: *mut kernel::bindings::seq_file,
) -> c_int {
    // SAFETY: By the safety requirements.
    let (subject, file) = unsafe { (&*subject.cast::<S>(), SeqFile::from_raw(file)) };
    let shown = FileKind::new(page).map(|page| subject.show(page, file));
    match shown {
        Some(Err(error)) => error.to_errno(),
        Some(Ok(())) | None => 0,
    }
}

/// # Safety
///
/// `subject` is an `S`, `id` is valid for reads and writes, `window` for writes.
unsafe extern "C" fn window<S: Inspect>(
    subject: *const c_void,
    id: *mut u32,
    window: *mut apple_dma_files_window,
) -> bool {
    // SAFETY: By the safety requirements.
    let (subject, from) = unsafe { (&*subject.cast::<S>(), *id) };
    let Some((found, seen)) = subject.window(from) else {
        return false;
    };
    // SAFETY: By the safety requirements.
    unsafe {
        *id = found;
        window.write(apple_dma_files_window {
            gpa: seen.span.start().raw(),
            dma: seen.iova.raw(),
            bytes: seen.span.len(),
            users: seen.users,
            uses: seen.uses,
            state: seen.status.name().as_char_ptr(),
        });
    }
    true
}

/// # Safety
///
/// `subject` is an `S`, and `summary` is valid for writes.
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
