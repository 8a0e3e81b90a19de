//! Crash points and planted faults of the storage on the real one: the points must do no harm, the faults must be found.

use quorate::seams::crash;

use crate::faultfs::End;
use crate::{Crash, Judged, crash as run, model};

/// Points of the floors above, which the script does not come by; `tests/planted` has those.
const ABOVE: &[&str] = &[
    "vote_kept",
    "log_truncated",
    "purge_handed_over",
    "apply_decided",
    "apply_written",
    "apply_answered",
    "flush_begun",
    "flush_done",
    "flush_marked",
    "replica_state_removed",
    "replica_log_removed",
];

/// Each point is died at the first time, and again later, where the script comes by that often.
#[test]
fn no_crash_point_of_the_storage_does_harm() {
    for name in crash::NAMES.iter().filter(|name| !ABOVE.contains(name)) {
        for passes in [0, 1, 6] {
            let switches = format!("crash::{name}={passes}*off->return");
            let whole = Crash { at: 0, seed: passes, opening_at: 0 };
            let Judged { end, done, .. } =
                run(whole, &switches).unwrap_or_else(|what| panic!("{switches}: {what}"));
            let is_whole = done.len() == model::operations().count();
            assert!(passes > 0 || end == End::Crashed, "the script does not come by {name}");
            assert!(end == End::Crashed || is_whole, "{switches}");
        }
    }
}

/// The judge is not blind: with one of these faults some crash is found to lose something.
#[test]
fn planted_faults_of_the_storage_are_found() {
    for (fault, point) in [
        ("ack_before_sync", "log_watermark_lowered"),
        ("flush_single_family", "log_gathered"),
        ("non_atomic_install", "install_ingested"),
    ] {
        let found = (0..40).find_map(|passes| {
            let switches = format!("planted::{fault}=return;crash::{point}={passes}*off->return");
            run(Crash { at: 0, seed: 0, opening_at: 0 }, &switches).err()
        });
        println!("{fault}: {found:?}");
        assert!(found.is_some(), "{fault} is not found");
    }
}
