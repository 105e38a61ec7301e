//! A run as a timeline: what Perfetto and chrome://tracing show.
//!
//! The format is the *Trace Event Format*: JSON objects, of which those with `"ph": "X"` are bars on a line. Each worker is a line.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::events::{Event, Events, What};
use crate::{Error, Result};

/// Collects a pool's events, to be looked at as a timeline. Made by [`Pool::trace`](crate::Pool::trace).
#[derive(Debug)]
pub struct Trace {
    events: Events,
    seen: Vec<Event>,
}

impl Trace {
    pub(super) fn new(events: Events) -> Self {
        Self { events, seen: Vec::new() }
    }

    /// Writes everything so far to a file that <https://ui.perfetto.dev> and chrome://tracing open.
    ///
    /// # Errors
    /// [`Os`](Error::Os) when it cannot be written.
    pub fn write(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.seen.extend(self.events.so_far());
        let failed = |error: std::io::Error| Error::Os(broody_os::Error::new("write", error));
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        let entries = entries(&self.seen);
        serde_json::to_writer(&mut file, &json!({ "traceEvents": entries, "displayTimeUnit": "ms" }))
            .map_err(|error| failed(error.into()))?;
        file.flush().map_err(failed)
    }
}

fn entries(events: &[Event]) -> Vec<Value> {
    let micros = |time: std::time::Duration| time.as_nanos() as f64 / 1000.0;
    let mut entries = Vec::new();
    let mut waiting: i64 = 0;
    let mut paused = BTreeMap::new();
    for Event { at, what } in events {
        let instant = |worker: i32, name: String| json!({ "name": name, "ph": "i", "s": "t", "ts": micros(*at), "pid": 1, "tid": worker });
        let change = match what {
            What::Queued { tasks, .. } => *tasks as i64,
            What::Leased { tasks, .. } => -(*tasks as i64),
            _ => 0,
        };
        if change != 0 {
            waiting += change;
            let counted = json!({ "waiting": waiting.max(0) });
            entries.push(json!({ "name": "tasks", "ph": "C", "ts": micros(*at), "pid": 1, "args": counted }));
        }
        match what {
            What::Ended { worker, task, function, took, cpu, peak, argument, result, failed } => {
                let start = micros(at.saturating_sub(*took));
                let args = json!({
                    "task": task, "cpu_us": micros(*cpu), "peak_bytes": peak, "argument_bytes": argument,
                    "result_bytes": result, "failed": failed,
                });
                entries.push(json!({
                    "name": function, "ph": "X", "ts": start, "dur": micros(*took), "pid": 1, "tid": worker, "args": args,
                }));
            }
            What::WorkerStarted { worker, seat } => {
                let args = json!({ "name": format!("worker {seat} (pid {worker})") });
                entries
                    .push(json!({ "name": "thread_name", "ph": "M", "pid": 1, "tid": worker, "args": args }));
            }
            What::Preempted { worker } => _ = paused.insert(*worker, *at),
            What::Resumed { worker } => {
                if let Some(since) = paused.remove(worker) {
                    entries.push(json!({
                        "name": "paused", "ph": "X", "ts": micros(since), "dur": micros(at.saturating_sub(since)),
                        "pid": 1, "tid": worker,
                    }));
                }
            }
            What::Lost { worker, task, status } => {
                entries.push(instant(*worker, format!("task {task} lost: {status}")));
            }
            What::WorkerEnded { worker, status } => {
                entries.push(instant(*worker, format!("ended: {status}")))
            }
            What::Queued { .. } | What::Leased { .. } | What::Retried { .. } => {}
        }
    }
    entries
}
