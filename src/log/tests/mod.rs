//! The state machine against a plain model, against scenarios in text, and the invariants against damage.

mod codec;
mod digests;
mod invariants;
mod made_by_hand;
mod memory;
mod model;
mod properties;
mod queries;
mod replica;
mod scenario_commands;
mod scenarios;
