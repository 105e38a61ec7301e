//! The promises, tested by making the fault for real and looking at /proc.

mod full;
mod host;
mod managers;
mod many;
mod memory;
mod processes;
mod repeated;
mod supervisor;
mod workers;

/// The program with the scenarios.
const HOST: &str = env!("CARGO_BIN_EXE_host");
