// SPDX-License-Identifier: GPL-2.0

//! The control socket: one JSON object per line in, one per line out.

use crate::cost::{
    checked_factor,
    checked_spread,
    Preset, //
};
use crate::hostile::{
    Hostile,
    Scope, //
};
use crate::mac::{
    Mac,
    Pair, //
};
use crate::pci::ConfigReads;
use crate::sync::lock;
use serde::Deserialize;
use serde_json::{
    json,
    Value, //
};
use std::{
    io::{
        self,
        BufRead,
        BufReader,
        Write, //
    },
    os::unix::net::{
        UnixListener,
        UnixStream, //
    },
    sync::Arc,
    thread, //
};

/// A request. README.md describes each.
#[derive(Debug, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case", deny_unknown_fields)]
enum Request {
    Stats,
    ResetStats,
    ResetLongest,
    Mappings { device: String },
    Set(Box<Set>),
    Translate,
    Quit,
}

/// Settings to change; absent ones stay.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    device: String,
    max_bytes: Option<u64>,
    max_entries: Option<u64>,
    panic_bytes: Option<u64>,
    panic_entries: Option<u64>,
    max_segment: Option<u64>,
    fragment: Option<u32>,
    fragment_seed: Option<u64>,
    split_above: Option<u64>,
    costs: Option<Preset>,
    latency_us: Option<u64>,
    map_us: Option<u64>,
    unmap_us: Option<u64>,
    unmap_unknown_us: Option<u64>,
    cost_spread: Option<u32>,
    cost_seed: Option<u64>,
    cost_factor: Option<f64>,
    placement: Option<String>,
    refuse_next: Option<u64>,
    refuse_unmap_next: Option<u64>,
    refuse_at: Option<u64>,
    refuse_unmap_at: Option<u64>,
    refuse_every: Option<u64>,
    hostile: Option<Hostile>,
    hostile_next: Option<u64>,
    hostile_about: Option<Scope>,
    late_ms: Option<u64>,
    reg_version: Option<u32>,
    reg_max_entries: Option<u32>,
    config: Option<ConfigReads>,
}

/// Returns the answer to one line.
pub fn answer(mac: &Mac, line: &str) -> Value {
    let outcome = serde_json::from_str(line)
        .map_err(|e| e.to_string())
        .and_then(|request| handle(mac, request));
    outcome.unwrap_or_else(|error| json!({ "error": error }))
}

fn handle(mac: &Mac, request: Request) -> Result<Value, String> {
    match request {
        Request::Stats => serde_json::to_value(mac.stats()).map_err(|e| e.to_string()),
        Request::ResetStats => {
            mac.clear_stats();
            Ok(json!({ "ok": true }))
        }
        Request::ResetLongest => {
            mac.clear_longest();
            Ok(json!({ "ok": true }))
        }
        Request::Mappings { device } => {
            let pair = find(mac, &device)?;
            let dart = pair.bus.dart.read().unwrap_or_else(|e| e.into_inner());
            let mappings: Vec<_> = dart.mappings().copied().collect();
            Ok(json!({ "mappings": mappings }))
        }
        Request::Set(set) => apply(find(mac, &set.device)?, &set),
        Request::Translate => {
            mac.turn_on_translation()?;
            Ok(json!({ "ok": true }))
        }
        Request::Quit => {
            mac.quit();
            Ok(json!({ "ok": true }))
        }
    }
}

fn find<'a>(mac: &'a Mac, name: &str) -> Result<&'a Pair, String> {
    mac.pairs
        .iter()
        .find(|pair| pair.name == name)
        .map(Arc::as_ref)
        .ok_or_else(|| format!("no device '{name}'"))
}

/// Changes a setting, unless it is absent.
fn copy<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

fn apply(pair: &Pair, set: &Set) -> Result<Value, String> {
    let placement = set.placement.as_deref().map(str::parse).transpose()?;
    let shared = pair
        .companion
        .as_ref()
        .ok_or_else(|| format!("device '{}' has no companion", pair.name))?;
    let spread = set.cost_spread.map(checked_spread).transpose()?;
    let factor = set.cost_factor.map(checked_factor).transpose()?;
    {
        let mut dart = pair.bus.dart.write().unwrap_or_else(|e| e.into_inner());
        let rules = &mut dart.rules;
        copy(&mut rules.max_segment, set.max_segment);
        copy(&mut rules.fragment, set.fragment);
        copy(&mut rules.fragment_seed, set.fragment_seed);
        copy(&mut rules.split_above, set.split_above);
        let mut pool = lock(&dart.pool);
        copy(&mut pool.limits.max_bytes, set.max_bytes);
        copy(&mut pool.limits.max_entries, set.max_entries);
        copy(&mut pool.limits.panic_bytes, set.panic_bytes);
        copy(&mut pool.limits.panic_entries, set.panic_entries);
        if let Some(placement) = placement {
            pool.set_placement(placement);
        }
    }
    copy(&mut *lock(&pair.bus.config), set.config);
    let mut settings = lock(&shared.settings);
    if let Some(preset) = set.costs {
        settings.costs.set(preset);
    }
    copy(&mut settings.costs.doorbell_us, set.latency_us);
    copy(&mut settings.costs.map_us, set.map_us);
    copy(&mut settings.costs.unmap_us, set.unmap_us);
    copy(&mut settings.costs.unmap_unknown_us, set.unmap_unknown_us);
    copy(&mut settings.costs.spread, spread);
    copy(&mut settings.costs.factor, factor);
    if let Some(seed) = set.cost_seed {
        settings.costs.seed = seed;
        settings.works = 0;
    }
    copy(&mut settings.refuse_next, set.refuse_next);
    copy(&mut settings.refuse_unmap_next, set.refuse_unmap_next);
    copy(&mut settings.refuse_at, set.refuse_at);
    copy(&mut settings.refuse_unmap_at, set.refuse_unmap_at);
    copy(&mut settings.late_ms, set.late_ms);
    settings.reg_version = set.reg_version.or(settings.reg_version);
    settings.reg_max_entries = set.reg_max_entries.or(settings.reg_max_entries);
    if let Some(n) = set.refuse_every {
        settings.refuse_every = n;
        settings.seen = 0;
    }
    if let Some(hostile) = set.hostile {
        settings.hostile = hostile;
        settings.hostile_next = None;
        settings.hostile_about = set.hostile_about.unwrap_or_default();
    }
    if let Some(n) = set.hostile_next {
        settings.hostile_next = Some(n).filter(|n| *n != 0);
    }
    Ok(json!({ "ok": true }))
}

/// Accepts clients on `listener` in a thread of its own.
pub fn serve(mac: Arc<Mac>, listener: UnixListener) -> io::Result<()> {
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            for stream in listener.incoming() {
                let mac = mac.clone();
                // A thread per client: a client that stays connected does not block others.
                let spawned = stream.and_then(|stream| {
                    thread::Builder::new()
                        .name("control-client".into())
                        .spawn(move || talk(&mac, stream))
                });
                if let Err(e) = spawned {
                    log::warn!("control: {e}");
                }
            }
        })
        .map(drop)
}

fn talk(mac: &Mac, stream: UnixStream) {
    let outcome = stream.try_clone().and_then(|mut out| {
        for line in BufReader::new(stream).lines() {
            let line = line?;
            if !line.trim().is_empty() {
                writeln!(out, "{}", answer(mac, &line))?;
            }
        }
        Ok(())
    });
    if let Err(e) = outcome {
        log::debug!("control: client: {e}");
    }
}
