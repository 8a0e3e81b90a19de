//! What is broken in a simulation: when, for how long, and of whom. Drawn from the seed before anything runs.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};

/// One fault and its end.
#[derive(Clone, Debug)]
pub struct Planned {
    /// When it begins.
    pub from: Duration,
    /// When it is mended.
    pub to: Duration,
    /// What it is.
    pub what: What,
    /// Whom it is about, the first of them where it is about one; of a ring and a bridge all, in the order in which
    /// they stand in it.
    pub nodes: Vec<u64>,
    /// Whether links to clients suffer as well, where those to the other nodes do.
    pub clients: bool,
}

impl Planned {
    /// Whether it is about links between its nodes and clients.
    pub fn reaches_clients(&self) -> bool {
        use What::{Clients, Deaf, Delay, Isolate, Loss, Pause};
        match self.what {
            Clients => true,
            Pause | Isolate | Deaf | Loss | Delay => self.clients,
            _ => false,
        }
    }
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Processes die, and are started again at the end.
    Crash,
    /// The same in the middle of what a process changes on its disk.
    Midway,
    /// The same in the middle of the installation of a snapshot.
    Install,
    /// Processes are asked to stop, hand over what they lead, and are started again at the end.
    Stop,
    /// Nothing comes from them and nothing reaches them, and then all of it: a process that was stopped, as the others
    /// see it. As it sees itself, it has missed nothing but time: its timers run out at the end all at once.
    Pause,
    /// They are cut off from the others.
    Isolate,
    /// What they send to the others is lost; what the others send arrives.
    Deaf,
    /// Each node reaches only its neighbours in a ring: of five nodes each a majority, and no two of them the same.
    Ring,
    /// Two halves that only one node reaches both of.
    Bridge,
    /// Clients do not reach them; nodes do.
    Clients,
    /// Connections from and to them break, over and over.
    Loss,
    /// Messages from and to them are late.
    Delay,
    /// Their clocks are set wrong.
    Clock,
    /// Their clocks are set wrong and right again, many times.
    ClockStrobe,
    /// Their disks fail: the nodes stop, and are started again at the end.
    DiskError,
    /// Their disks are nearly full, and say so.
    DiskFull,
    /// Nothing more can be written to their disks, from one moment to the next: the nodes stop. Whoever watches over
    /// them starts them again and again, in vain until the end.
    NoSpace,
    /// Their disks are slow.
    SlowDisk,
    /// Their disks are lost, and they are started with empty ones.
    Wipe,
}

/// What operators do is written down among what is broken.
pub const REPLACE: &str = "replace";

/// Those that overlap as they come. Some of the deaths are of another kind (`ends`).
pub const KINDS: [What; 15] = [
    What::Crash,
    What::Pause,
    What::Isolate,
    What::Deaf,
    What::Ring,
    What::Bridge,
    What::Loss,
    What::Delay,
    What::Clock,
    What::ClockStrobe,
    What::DiskError,
    What::DiskFull,
    What::SlowDisk,
    What::Clients,
    What::NoSpace,
];

impl What {
    /// As in reports.
    pub fn name(self) -> &'static str {
        match self {
            What::Crash => "kill",
            What::Midway => "kill-midway",
            What::Install => "kill-install",
            What::Stop => "stop",
            What::Pause => "pause",
            What::Isolate => "partition-isolate",
            What::Deaf => "partition-one-way",
            What::Ring => "partition-ring",
            What::Bridge => "partition-bridge",
            What::Clients => "partition-clients",
            What::Loss => "loss",
            What::Delay => "delay",
            What::Clock => "clock-bump",
            What::ClockStrobe => "clock-strobe",
            What::DiskError => "disk-error",
            What::DiskFull => "disk-full",
            What::NoSpace => "no-space",
            What::SlowDisk => "slow-disk",
            What::Wipe => "wipe",
        }
    }

    /// Whether the end of one would end the other.
    pub fn clashes_with(self, other: What) -> bool {
        self.touches() == other.touches()
    }

    /// What of a node it changes.
    fn touches(self) -> &'static str {
        match self {
            What::Crash | What::Midway | What::Install | What::Stop => "process",
            What::DiskError | What::NoSpace | What::Wipe => "process",
            What::Pause | What::Isolate | What::Deaf | What::Ring | What::Bridge => "links",
            // A repair of a link ends whatever it suffers from.
            What::Clients | What::Loss => "links",
            What::Delay => "delay",
            What::Clock | What::ClockStrobe => "clock",
            What::DiskFull => "room",
            What::SlowDisk => "speed",
        }
    }
}

/// Draws the faults of a simulation that works from `begin` to `end`. Several overlap now and then, and every other
/// simulation has one before, while the cluster is being made.
pub fn plan(randomness: &mut SmallRng, nodes: u64, begin: Duration, end: Duration) -> Vec<Planned> {
    let mut planned = Vec::new();
    if randomness.random_bool(0.5) {
        let from = Duration::from_millis(randomness.random_range(0..1_500));
        let lasts = Duration::from_millis(randomness.random_range(200..3_000));
        let node = randomness.random_range(1..=nodes);
        let (to, nodes) = (from + lasts, vec![node]);
        planned.push(Planned { from, to, what: What::Pause, nodes, clients: false });
    }
    let mut at = begin + Duration::from_millis(randomness.random_range(500..3_000));
    while at + Duration::from_secs(1) < end {
        let what = if randomness.random_ratio(2, 5) {
            What::Crash
        } else {
            match *KINDS.choose(randomness).expect("there are kinds") {
                // Of three nodes each has both others for neighbours: nothing would be cut.
                What::Ring if nodes == 3 => What::Bridge,
                what => what,
            }
        };
        let lasts = Duration::from_millis(randomness.random_range(300..7_000));
        let count = match (what, randomness.random_range(0..10)) {
            (What::Ring | What::Bridge, _) | (What::Crash | What::DiskFull, 0) => nodes,
            (_, 0..3) => nodes.div_ceil(2),
            (_, 3..5) => nodes / 2,
            _ => 1,
        };
        let mut order: Vec<u64> = (1..=nodes).collect();
        order.shuffle(randomness);
        order.truncate(count as usize);
        let what = if what == What::Crash { ends(at, count == 1) } else { what };
        let (to, clients) = ((at + lasts).min(end), randomness.random_ratio(1, 3));
        planned.push(Planned { from: at, to, what, nodes: order, clients });
        // Often while the one before still lasts.
        let most = if randomness.random_ratio(1, 3) { 800 } else { 6_000 };
        at += Duration::from_millis(randomness.random_range(200..most));
    }
    planned
}

/// How processes end: by when it is, so that all that is drawn stays as it was.
fn ends(at: Duration, is_one: bool) -> What {
    match at.as_millis() % 5 {
        0 => What::Midway,
        1 => What::Install,
        2 if is_one => What::Stop,
        _ => What::Crash,
    }
}

/// Draws when which node is to lose its disk, if nothing stands against it then.
pub fn plan_wipes(
    randomness: &mut SmallRng,
    nodes: u64,
    begin: Duration,
    end: Duration,
) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut at = begin;
    loop {
        at += Duration::from_millis(randomness.random_range(1_000..8_000));
        if at >= end {
            return planned;
        }
        let nodes = vec![randomness.random_range(1..=nodes)];
        planned.push(Planned { from: at, to: at, what: What::Wipe, nodes, clients: false });
    }
}
