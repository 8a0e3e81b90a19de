//! What is broken. Each file has one kind of fault, and [`all`] has them all. To add one: a file with its [`Nemesis`]
//! values, and a line here.
//!
//! A nemesis breaks something and returns how to mend it. It says what it saw of its effect, for a fault that had none
//! proves nothing.

mod clock;
mod cpu;
mod damage;
mod deposed;
mod disk_full;
mod flood;
mod fsync;
mod install;
mod kill;
mod link;
mod partition;
mod pause;
mod power;
mod read_error;
mod replace;
mod restart;
mod snapshot;
mod wipe;
mod world;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;

use replace::REPLACE;
pub use world::World;

/// What a nemesis needs that not every machine gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nodes in network namespaces, joined by the switch.
    Switch,
    /// A file system for each node.
    Disk,
    /// Something preloaded into the nodes.
    Shim,
    /// Either of the two last ones.
    DiskOrShim,
}

/// Other faults beside which one is what it is called, and after which a sound cluster serves again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Whatever allows it.
    Any,
    /// Cuts and bad links. It takes what a minority has stored, or its nodes, and they take nothing: so no message is lost.
    Network,
    /// None.
    Nothing,
}

/// A kind of fault.
pub struct Nemesis {
    /// As on the command line.
    pub name: &'static str,
    /// Several nemeses of one kind go by this name together.
    pub family: &'static str,
    /// What it does.
    pub about: &'static str,
    /// What it needs.
    pub needs: &'static [Need],
    /// How long what it breaks stays broken, in milliseconds: from, to.
    pub holds_ms: (u64, u64),
    /// What it may run beside.
    pub mixes: Beside,
    /// Breaks.
    pub strike: fn(Arc<World>, StdRng) -> BoxFuture<'static, anyhow::Result<Struck>>,
}

impl Nemesis {
    /// Whether this and another may be broken at the same time.
    pub fn mixes_with(&self, other: &Nemesis) -> bool {
        self.family != other.family && self.allows(other) && other.allows(self)
    }

    fn allows(&self, other: &Nemesis) -> bool {
        match self.mixes {
            Beside::Any => true,
            Beside::Network => NETWORK_FAMILIES.contains(&other.family),
            Beside::Nothing => false,
        }
    }

    /// Whether mending it makes nodes anew.
    pub fn makes_anew(&self) -> bool {
        [REPLACE, "damage", "wipe"].contains(&self.family)
    }

    /// Which of several is mended first, the least. Nodes that are started, and still more those that are made anew, are
    /// waited for, and may need the others to be there and to hear each other.
    pub fn mended_in_turn(&self) -> u8 {
        match self.family {
            "pause" | "partition" | "link" => 0,
            _ if self.makes_anew() => 2,
            _ => 1,
        }
    }
}

/// What was broken, and how to mend it.
pub struct Struck {
    /// The nodes that it is about.
    pub nodes: Vec<u32>,
    /// For people.
    pub what: String,
    /// Mends it, and says how it was seen to take effect; none if it was not.
    pub mend: BoxFuture<'static, anyhow::Result<Option<String>>>,
}

impl Struck {
    pub(crate) fn new(
        nodes: Vec<u32>,
        what: impl Into<String>,
        mend: impl Future<Output = anyhow::Result<Option<String>>> + Send + 'static,
    ) -> Struck {
        Struck { nodes, what: what.into(), mend: Box::pin(mend) }
    }
}

/// Ends what goes on changing something, behind its last change: nothing is mended before that.
///
/// # Errors
///
/// If it had failed before.
async fn end(task: JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    task.abort();
    match task.await {
        Err(ended) if ended.is_cancelled() => Ok(()),
        ended => ended?,
    }
}

/// Of cuts and bad links.
const NETWORK_FAMILIES: [&str; 2] = ["partition", "link"];
/// How long most faults stay.
const HOLDS_MS: (u64, u64) = (2_500, 6_000);
/// How long a node that was restarted may take before it is left to itself.
const RESTART_DEADLINE: Duration = Duration::from_secs(30);

/// Every nemesis.
pub fn all() -> impl Iterator<Item = &'static Nemesis> {
    const ALL: &[&[Nemesis]] = &[
        kill::NEMESES,
        restart::NEMESES,
        pause::NEMESES,
        partition::NEMESES,
        deposed::NEMESES,
        link::NEMESES,
        clock::NEMESES,
        power::NEMESES,
        fsync::NEMESES,
        disk_full::NEMESES,
        read_error::NEMESES,
        flood::NEMESES,
        damage::NEMESES,
        snapshot::NEMESES,
        wipe::NEMESES,
        replace::NEMESES,
        cpu::NEMESES,
        install::NEMESES,
    ];
    ALL.iter().copied().flatten()
}

/// Those of this name, or of the family of this name.
pub fn named(name: &str) -> Vec<&'static Nemesis> {
    match all().find(|one| one.name == name) {
        Some(one) => vec![one],
        None => all().filter(|one| one.family == name).collect(),
    }
}

/// Why a nemesis cannot be had in this cluster; none if it can.
pub fn obstacle(
    nemesis: &Nemesis,
    has_switch: bool,
    has_disks: bool,
    has_shim: bool,
) -> Option<&'static str> {
    nemesis.needs.iter().find_map(|need| match need {
        Need::Switch if !has_switch => Some("it needs nodes in network namespaces"),
        Need::Disk if !has_disks => Some("it needs a file system for each node, and so root"),
        Need::Shim if !has_shim => Some("it needs a C compiler"),
        Need::DiskOrShim if !has_disks && !has_shim => Some("it needs root or a C compiler"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_are_no_families_of_others() {
        let names: Vec<&str> = all().map(|one| one.name).collect();
        for one in all() {
            assert_eq!(names.iter().filter(|name| **name == one.name).count(), 1, "{}", one.name);
            assert!(
                named(one.family).iter().any(|member| member.family == one.family),
                "{}",
                one.name
            );
            assert!(one.holds_ms.0 <= one.holds_ms.1);
        }
        assert!(named("kill-").is_empty());
    }

    #[test]
    fn what_makes_nodes_anew_is_mixed_with_nothing_that_takes_more_of_them() {
        for family in NETWORK_FAMILIES {
            assert!(!named(family).is_empty(), "there is no family {family}");
        }
        let may = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|name| named(name)[0]);
            assert_eq!(one.mixes_with(other), other.mixes_with(one));
            one.mixes_with(other)
        };
        assert!(may("flip-sst", "one-way") && may("fsync-error", "delay") && may("wipe", "bridge"));
        assert!(may("cpu-squeeze", "pause-one") && may("kill-one", "delay"));
        assert!(
            !may("flip-sst", "flip-wal") && !may("flip-sst", "wipe") && !may("wipe", "kill-one")
        );
        assert!(!may("flip-wal", "bridge") && !may("truncate-wal", "delay"));
        assert!(!may("kill-one", "kill-all") && !may("kill-install", "delay"));
        for lossy in all().filter(|one| one.makes_anew() && one.family != REPLACE) {
            let others = all().filter(|other| !NETWORK_FAMILIES.contains(&other.family));
            for other in others {
                assert!(!lossy.mixes_with(other), "{} beside {}", lossy.name, other.name);
            }
        }
    }

    #[test]
    fn whoever_waits_for_others_is_mended_after_them() {
        let turn = |name: &str| named(name)[0].mended_in_turn();
        assert!(turn("pause-majority") < turn("disk-exhausted"));
        assert!(turn("bridge") < turn("fsync-error") && turn("delay") < turn("kill-one"));
        assert!(turn("fsync-error") < turn("wipe") && turn("delay") < turn("flip-sst"));
    }

    #[test]
    fn the_readme_lists_each_in_its_family() {
        let readme = include_str!("../../README.md");
        for one in all().filter(|one| one.family != "damage") {
            let row = format!("| `{}` | ", one.family);
            let row = readme.lines().find(|line| line.starts_with(&row)).unwrap_or_default();
            assert!(row.contains(&format!("`{}`", one.name)), "{}: {row:?}", one.name);
        }
    }
}
