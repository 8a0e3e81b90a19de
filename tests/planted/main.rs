//! Each planted fault of `seams.rs` does what it says, and is not there while it is not switched on: a switch without
//! effect would make a positive control of the fault suite pass for the wrong reason. Needs the feature `failpoints`.
//!
//! Switches are the process's, so tests that set them hold [`quorate::seams::begin`] and run one after the other.

mod consensus;
mod crashes;
mod installs;
mod logs;
mod messages;
mod node;
mod processes;

/// Runs `look` without the fault and then with it. Returns what was found: right, then wrong.
fn without_and_with<T>(name: &str, mut look: impl FnMut() -> T) -> (T, T) {
    let _seams = quorate::seams::begin();
    let right = look();
    switch(name, "return");
    (right, look())
}

/// Sets a switch, which there must be.
fn switch(name: &str, actions: &str) {
    use quorate::seams::{crash, planted};
    let (kind, point) = name.split_once("::").expect("a kind and a name");
    let names = if kind == "crash" { crash::NAMES } else { planted::NAMES };
    assert!(names.contains(&point), "there is no {name}");
    fail::cfg(name, actions).unwrap();
}

/// On a runtime of its own.
fn run<F: Future>(work: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(4).enable_all().build().unwrap().block_on(work)
}
