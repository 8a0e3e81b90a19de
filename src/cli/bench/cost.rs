//! The processor time that appends take, over all processes that have to do with them.

use std::time::Duration;

use serde_json::{Value, json};

use super::local::Local;
use super::resources::Resources;

/// Counts from when it was started.
pub(super) struct Meter {
    nodes: Vec<u32>,
    before: Used,
}

/// Processor time.
struct Used {
    nodes: Duration,
    /// Of this process: producers, and subscribers where there are some.
    here: Duration,
}

/// What each append took on average, in µs.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    nodes_us: f64,
    here_us: f64,
}

impl Meter {
    /// Of a cluster on this machine.
    pub(super) fn start(local: &Local) -> anyhow::Result<Meter> {
        Meter::of(local.pids().map(|(_, pid)| pid).collect())
    }

    fn of(nodes: Vec<u32>) -> anyhow::Result<Meter> {
        let before = Used::by(&nodes)?;
        Ok(Meter { nodes, before })
    }

    /// What each of so many appends took since then.
    pub(super) fn stop(self, appends: u64) -> anyhow::Result<Cost> {
        let after = Used::by(&self.nodes)?;
        let each = |after: Duration, before: Duration| {
            after.saturating_sub(before).as_secs_f64() * 1e6 / appends.max(1) as f64
        };
        Ok(Cost {
            nodes_us: each(after.nodes, self.before.nodes),
            here_us: each(after.here, self.before.here),
        })
    }
}

impl Used {
    fn by(nodes: &[u32]) -> anyhow::Result<Used> {
        let mut used = Duration::ZERO;
        for node in nodes {
            used += Resources::of(*node)?.cpu;
        }
        Ok(Used { nodes: used, here: Resources::of(std::process::id())?.cpu })
    }
}

impl Cost {
    pub(super) fn to_json(self) -> Value {
        json!({ "nodes": self.nodes_us, "here": self.here_us })
    }

    pub(super) fn to_text(self) -> String {
        format!("{:.1} µs of all nodes, {:.1} µs here", self.nodes_us, self.here_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_processes_use_is_divided_among_appends() {
        let own = std::process::id();
        let meter = Meter::of(vec![own, own]).unwrap();
        let used = || Resources::of(own).unwrap().cpu;
        let until = used() + Duration::from_millis(50);
        while used() < until {
            std::hint::spin_loop();
        }
        let Cost { nodes_us, here_us } = meter.stop(10).unwrap();
        assert!(here_us >= 5e3, "{here_us}");
        // Both nodes are this process, which went on between the looks.
        assert!(nodes_us >= 10e3, "{nodes_us}");
    }
}
