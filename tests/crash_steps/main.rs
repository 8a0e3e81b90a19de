//! The real storage dies at each of its steps on the disk, loses what was not synced, and is opened again: G1, G11.
//!
//! A child process runs a script on `Storage` under the shim of `faultfs/`, which kills it in place of its n-th write,
//! sync, truncation or change of a name, and then takes away what a power cut would. What was reported done before is
//! noted where no cut reaches it. Then the storage is opened: every log has to be sound and hold what was reported, the
//! state has to be one that was, and not older than the last flush. `src/consensus/tests/` does the like with the memory
//! twin, whose steps are fewer and whose disk is a model. `hanging.rs` has the same shim let a disk hang.
//!
//! A run takes a sample of the steps, spread evenly. CRASH_STEPS=all takes every one, of the script and of the opening
//! behind a crash; CRASH_STEPS=n:seed:m, as a failure prints it, takes one.

mod child;
mod faultfs;
mod hanging;
mod judge;
mod model;
#[cfg(feature = "failpoints")]
mod points;
mod script;
mod world;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use faultfs::{Disk, End};
use tokio::time::Instant;

/// How long a sample may take; what it has looked at by then has to be enough.
const SAMPLE_TIME: Duration = Duration::from_secs(40);
const SAMPLE_MIN: u64 = 25;
const SAMPLE_MAX: u64 = 150;
/// Fewer steps on the disk no opening has.
const OPENING_STEPS_MIN: usize = 10;

/// What one run of the child is to meet.
#[derive(Clone, Copy, Debug)]
struct Crash {
    /// The step in whose place it dies; 0 for none.
    at: u64,
    /// Which part of what is not synced is lost, and with what holes: 0 for all of it.
    seed: u64,
    /// The step in whose place the opening after it dies; 0 for none.
    opening_at: u64,
}

/// The data directory, which the child makes: its name has to survive as well.
fn data_of(disk: &Disk) -> PathBuf {
    disk.data().join("node")
}

/// This program, as the child.
fn child(disk: &Disk, has_script: bool) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "as_child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(child::DATA, data_of(disk));
    if has_script {
        command.env(child::NOTES, disk.notes());
    }
    command
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
#[ignore = "what the child process does"]
fn as_child() {
    if std::env::var_os(child::DATA).is_some() {
        let _seams = quorate::seams::begin();
        runtime().block_on(child::run());
    }
}

/// Operations that were reported done.
fn done(notes: &Path) -> Vec<usize> {
    let text = std::fs::read_to_string(notes).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// What came of a run that was judged to be sound.
struct Judged {
    /// How the child ended.
    end: End,
    /// How the opening behind it did, if there was to be one.
    opening: Option<End>,
    /// Operations that were reported done.
    done: Vec<usize>,
}

/// Runs the script, cuts the power, and judges.
fn crash(crash: Crash, switches: &str) -> Result<Judged, String> {
    let disk = Disk::new();
    let mut program = child(&disk, true);
    program.env("FAILPOINTS", switches);
    let end = disk.run(program, crash.at);
    disk.cut(crash.seed);
    let opening = (crash.opening_at > 0).then(|| {
        let end = disk.run(child(&disk, false), crash.opening_at);
        disk.cut(crash.seed);
        end
    });
    let done = done(&disk.notes());
    runtime().block_on(judge::judge(&data_of(&disk), &done))?;
    Ok(Judged { end, opening, done })
}

/// Numbers of `[1, steps]`, each part of which is met early: multiples of the golden ratio.
fn spread(steps: u64) -> impl Iterator<Item = u64> {
    (1..).map(move |number: u64| {
        let fraction = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        1 + ((u128::from(fraction) * u128::from(steps)) >> 64) as u64
    })
}

/// Every other step loses everything, and every fourth time the opening dies too.
fn planned(at: u64, number: u64, opening_steps: u64) -> Crash {
    let seed = if number.is_multiple_of(2) { 0 } else { at };
    let opening_at = if number.is_multiple_of(4) { 1 + (at * 31) % opening_steps } else { 0 };
    Crash { at, seed, opening_at }
}

fn judged(planned: Crash) -> Judged {
    crash(planned, "").unwrap_or_else(|what| {
        let Crash { at, seed, opening_at } = planned;
        panic!(
            "{what}\nrepeat with: CRASH_STEPS={at}:{seed}:{opening_at} cargo test --test crash_steps -- --nocapture"
        )
    })
}

/// Steps of the script, and of an opening behind it.
fn steps() -> (u64, u64) {
    let disk = Disk::new();
    assert_eq!(disk.run(child(&disk, true), 0), End::Finished);
    let steps = disk.steps();
    assert_eq!(done(&disk.notes()).len(), model::operations().count());
    assert_eq!(disk.run(child(&disk, false), 0), End::Finished);
    (steps, disk.steps())
}

#[test]
fn whatever_step_it_dies_at_nothing_is_lost_that_was_reported() {
    let asked = std::env::var("CRASH_STEPS").unwrap_or_default();
    if let [at, seed, opening_at] = asked.split(':').collect::<Vec<_>>()[..] {
        let number = |text: &str| text.parse().expect("a number");
        let one = Crash { at: number(at), seed: number(seed), opening_at: number(opening_at) };
        let Judged { end, opening, done } = judged(one);
        println!("{one:?}: {end:?}, opening {opening:?}, done {done:?}");
        return;
    }
    let (steps, opening_steps) = steps();
    let started = Instant::now();
    let all: Box<dyn Iterator<Item = u64>> = match asked.as_str() {
        "all" => Box::new(1..=steps),
        _ => Box::new(spread(steps).take(SAMPLE_MAX as usize)),
    };
    let (mut looked_at, mut crashed, mut within) = (0, 0, 0);
    for (number, at) in (0..).zip(all) {
        if asked.is_empty() && started.elapsed() > SAMPLE_TIME {
            break;
        }
        let Judged { end, done, .. } = judged(planned(at, number, opening_steps));
        looked_at += 1;
        crashed += u64::from(end == End::Crashed);
        within += u64::from(!done.is_empty() && done.len() < model::operations().count());
    }
    println!("{looked_at} of {steps} steps: {crashed} crashes, {within} within the script");
    assert!(
        looked_at >= SAMPLE_MIN,
        "{looked_at} steps in {SAMPLE_TIME:?} are too few to say anything"
    );
    assert!(crashed > looked_at * 3 / 4 && within > looked_at / 4, "{crashed} and {within}");
    if asked == "all" {
        // Behind the whole script, and where a cut tears its middle.
        for at in [0, steps / 3, steps * 2 / 3] {
            for seed in [0, 1] {
                every_opening_step(at, seed);
            }
        }
    }
}

/// The opening behind a crash dies at each of its steps, until there is none left to die at. The cut before it is the same
/// each time, so that it has the same steps.
fn every_opening_step(at: u64, seed: u64) {
    let died = |opening_at: &u64| {
        judged(Crash { at, seed, opening_at: *opening_at }).opening == Some(End::Crashed)
    };
    let steps = (1..).take_while(died).count();
    println!(
        "each of {steps} steps of the opening behind step {at}, with what a cut by {seed} leaves"
    );
    assert!(steps >= OPENING_STEPS_MIN, "{steps} steps are too few for an opening");
}

#[test]
fn a_cut_behind_a_run_that_nothing_disturbed_changes_nothing() {
    for seed in [0, 1] {
        let Judged { end, done, .. } = judged(Crash { at: 0, seed, opening_at: 0 });
        assert_eq!((end, done.len()), (End::Finished, model::operations().count()));
    }
}

#[test]
fn samples_are_spread() {
    let mut found: Vec<u64> = spread(1_000).take(100).collect();
    found.sort_unstable();
    let widest = found.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(widest < Some(30) && found[0] < 30 && found[99] > 970, "{found:?}");
}
