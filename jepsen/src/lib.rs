//! The fault suite of Quorate: it runs a cluster of the real binary, breaks things around it while clients work, and
//! judges by the recorded history alone whether each guarantee was kept.
//!
//! A run leaves a directory: `run.json` (what was run: [`history::Run`]), `history.jsonl` (what clients did and saw:
//! [`history::Event`]), `nemesis.jsonl` (what was broken: [`history::Fault`]), `nodes/N/` (configuration and log of
//! each node). Judging it adds `results.json`, `history.edn`, `list-append.edn` and `report.html`.

pub mod check;
pub mod export;
pub mod history;
pub mod judge;
pub mod model;
pub mod record;
pub mod report;
