//! The fault suite of Quorate: it runs a cluster of the real binary, breaks things around it while clients work, and
//! judges by the recorded history alone whether each guarantee was kept.
//!
//! A run leaves a directory: `run.json` (what was run: [`history::Run`]), `history.jsonl` (what clients did and saw:
//! [`history::Event`]), `nemesis.jsonl` (what was broken: [`history::Fault`]), `leaders.jsonl` (who led:
//! [`history::Led`]), `nodes/` (configuration and log of each node). Judging it adds `results.json`, `history.edn`, `list-append.edn` and `report.html`.

pub mod api;
pub mod check;
pub mod cli;
mod clock;
pub mod export;
pub mod history;
pub mod judge;
pub mod matrix;
pub mod model;
pub mod nemesis;
pub mod network;
pub mod nodes;
pub mod programs;
pub mod record;
pub mod report;
pub mod run;
pub mod workload;

/// Tells the user what goes on, unless a run is to be quiet.
#[macro_export]
macro_rules! say {
    ($options:expr, $($words:tt)*) => {
        if !$options.quiet {
            eprintln!($($words)*);
        }
    };
}
