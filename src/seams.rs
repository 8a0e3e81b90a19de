//! Beside floor 0: where tests break this node on purpose. Points at which it dies, and planted faults, each one a bug
//! that the fault suite has to find; a suite that passes with one of them switched on proves nothing.
//!
//! Without the feature `failpoints` every function here is constant and nothing of it is left in the binary. The feature
//! builds only with debug assertions, so no release can have it.
//!
//! A process that was built with it takes its switches from the environment when it starts, in the syntax of the crate
//! `fail`; an unknown name is refused. Names are `planted::` or `crash::` and the name of a function of that module:
//!
//! ```text
//! FAILPOINTS='planted::dedup_off=return'            the fault is there
//! FAILPOINTS='planted::ignore_eio=return;planted::watermark_ignored=return'
//! FAILPOINTS='crash::log_synced=return'             aborts when it comes there
//! FAILPOINTS='crash::log_synced=7*off->return'      aborts when it comes there for the eighth time
//! FAILPOINTS='crash::log_synced=1%return'           aborts there one time in a hundred
//! ```

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("the feature `failpoints` plants faults: it must not be in a release build");

/// Holds what [`begin`] switched on. Dropping it switches everything off.
pub struct Seams {
    #[cfg(feature = "failpoints")]
    _scenario: fail::FailScenario<'static>,
}

/// Reads the environment. To be called once, before anything else runs; tests call it too, and run one at a time while
/// they hold what it returns.
///
/// # Panics
/// The environment names something that there is not, or in a wrong syntax: a fault that was not planted must not look
/// like one that was not found.
#[cfg(feature = "failpoints")]
pub fn begin() -> Seams {
    let scenario = fail::FailScenario::setup();
    for (name, actions) in fail::list() {
        assert!(is_known(&name), "FAILPOINTS: there is no {name}");
        eprintln!("FAILPOINTS: {name}={actions}");
    }
    Seams { _scenario: scenario }
}

/// There is nothing to begin.
#[cfg(not(feature = "failpoints"))]
pub const fn begin() -> Seams {
    Seams {}
}

/// Whether a switch of this name exists.
#[cfg(feature = "failpoints")]
fn is_known(name: &str) -> bool {
    match name.split_once("::") {
        Some(("planted", name)) => planted::NAMES.contains(&name),
        Some(("crash", name)) => crash::NAMES.contains(&name),
        _ => false,
    }
}

macro_rules! planted {
    ($($(#[$documentation:meta])* $name:ident;)*) => {
        /// Every name.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            $(#[$documentation])*
            #[cfg(feature = "failpoints")]
            pub fn $name() -> bool {
                fail::fail_point!(concat!("planted::", stringify!($name)), |_| true);
                false
            }

            $(#[$documentation])*
            #[cfg(not(feature = "failpoints"))]
            pub const fn $name() -> bool {
                false
            }
        )*
    };
}

macro_rules! crash {
    ($($(#[$documentation:meta])* $name:ident;)*) => {
        /// Every name.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            $(#[$documentation])*
            #[cfg(feature = "failpoints")]
            pub fn $name() {
                fail::fail_point!(concat!("crash::", stringify!($name)), |_| std::process::abort());
            }

            $(#[$documentation])*
            #[cfg(not(feature = "failpoints"))]
            pub const fn $name() {}
        )*
    };
}

/// Faults: each is true while it is switched on, at the one place where the bug would be.
pub mod planted {
    use std::time::Duration;

    /// How long [`ack_before_sync`] puts a sync off: long enough that whoever kills the nodes meets it.
    pub const SYNC_DELAY: Duration = Duration::from_millis(250);

    /// Whether a fault is switched on that lets a log be shorter after a restart than it was said to be. openraft asserts
    /// that no follower's is, and a replica that is told what it has acknowledged stops: both would find the fault before the
    /// suite does.
    pub fn forgets() -> bool {
        ack_before_sync() || ignore_eio() || watermark_ignored() || wiped_replica_votes()
    }

    planted! {
        /// `storage/log_writer`. G1. What has no vote in it is reported done [`SYNC_DELAY`] before it is written: killing
        /// or cutting the power of a quorum loses it. Found as a lost write.
        ack_before_sync;
        /// `log/append.rs`. G4. No id is known: what is retried is appended again. Found as a duplicate.
        dedup_off;
        /// `consensus/read_index.rs`. G3. Nobody is asked: whoever has a replica answers from what it has applied, also
        /// a deposed leader. Found as a stale read.
        no_read_index;
        /// `consensus/log_store.rs`. G1. A vote is answered and kept in memory alone, but for the meta group's: a voter
        /// that restarts follows a leader that it had helped to depose, and gives up what the next one acknowledged.
        /// Found as lost writes. A restart forgets what was committed too: openraft's debug assertions, which a release
        /// does not have, would find that first.
        vote_not_persisted;
        /// `consensus/read_index.rs`. G3. A leader confirms that it leads, and then reads what it has applied, though it
        /// does not know yet what earlier terms have committed. Found as a stale read after a change of leader.
        serve_before_term_commit;
        /// `storage/log_writer`, `storage/rocks`, `consensus/flusher.rs`. G1. What the disk refused is reported done, and
        /// the node goes on. Found as a lost write once a quorum restarts, and as a node that outlives an EIO.
        ignore_eio;
        /// `service/delivery/progress.rs`. G6. A subscription that starts behind the first seq skips one. Found as a gap
        /// in a delivery, or by a client that checks.
        skip_on_resubscribe;
        /// `consensus/flusher.rs`, `consensus/replicas.rs`, `storage/recovery.rs`. G1. From its first purge on a node
        /// purges what no flush has made durable, and keeps no bytes behind. After a kill the state lies behind the
        /// log. Recovery and openraft would both refuse that; so a start takes what was purged for applied. Found as
        /// lost writes, and as replicas that differ.
        purge_before_flush;
        /// `storage/database.rs`. G1, G2. Of a group only its row is flushed, of the meta group the topology too: after
        /// a kill the row says that entries are applied whose effects are gone. Found as lost writes, and as seqs that
        /// are used again.
        flush_single_family;
        /// `storage/install.rs`. G1, G10, G11. A snapshot is brought in piece by piece under a row that says it is there:
        /// a kill within leaves a part. Found as an applied index that has two states.
        non_atomic_install;
        /// `storage/recovery.rs`. G1, G11. A log that lost its end is relied on. Found as a lost write once the ends
        /// of a quorum's logs are cut off.
        watermark_ignored;
        /// `server/operations.rs`, `server/node.rs`. G1. A node whose data is gone, `IDENTITY` alone excepted, makes blank
        /// replicas under their old ids, and they vote. Found as a lost write once a quorum was wiped in turn.
        wiped_replica_votes;
    }
}

/// Points at which the process aborts. Unlike a planted fault, a crash must never do harm.
pub mod crash {
    crash! {
        /// Log writer: changes are gathered, nothing is written.
        log_gathered;
        /// Log writer: the watermark is lowered for a truncation or removal, which is not written yet.
        log_watermark_lowered;
        /// Log writer: changes are synced, the watermark does not hold votes that are among them.
        log_synced;
        /// Log writer: changes are synced and the watermark holds what it must; nobody has been told.
        log_marked;
        /// Log writer: those who waited have been told.
        log_reported;
        /// Watermark or identity: written beside and synced, not renamed.
        small_file_written;
        /// Watermark or identity: renamed, its folder not synced.
        small_file_renamed;
        /// Log store: a vote is durable and not answered.
        vote_kept;
        /// Log store: a truncation is durable and not answered.
        log_truncated;
        /// Log store: a purge is handed to the log writer.
        purge_handed_over;
        /// State machine: entries are decoded and applied in memory, nothing is written.
        apply_decided;
        /// State machine: the effects of entries are written, nobody has been told.
        apply_written;
        /// State machine: those who waited have been told.
        apply_answered;
        /// Flush coordinator: marks are read, the flush has not begun.
        flush_begun;
        /// Flush coordinator: the flush is complete, no mark is raised.
        flush_done;
        /// Flush coordinator: marks are raised, nothing is purged.
        flush_marked;
        /// Staging: files are written and synced, the seal is missing.
        staging_synced;
        /// Staging: sealed.
        staging_sealed;
        /// Install: the mark is durable, the old state stands.
        install_marked;
        /// Install: the old range is cleared and flushed, nothing is in.
        install_cleared;
        /// Install: a table is brought in, maybe not the last.
        install_ingested;
        /// Install: the listing of names is rebuilt, the mark stands.
        install_listed;
        /// Install: the mark is cleared, not flushed.
        install_unmarked;
        /// Install: complete and durable, the staging area is still there.
        install_complete;
        /// Replica made anew: the old state is gone, the old log stands.
        replica_state_removed;
        /// Replica made anew: the old log is gone, the new row is not written.
        replica_log_removed;
    }
}
