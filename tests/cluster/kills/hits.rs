//! Whether the kills of a run hit what they were meant to hit.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// Appends that have to be in flight in the groups that a victim leads.
pub const IN_FLIGHT_MIN: u64 = 100;

/// One node that was killed.
#[derive(Clone, Debug)]
pub struct Victim {
    pub node: u32,
    /// What it led.
    pub groups: BTreeSet<u64>,
    /// Appends to these groups that were handed in before the kill and not answered when the process was gone.
    pub in_flight: u64,
}

/// What was killed at once, and once more while it started.
#[derive(Clone, Debug)]
pub struct Kill {
    pub victims: Vec<Victim>,
    /// The longest time that a lane waited for an acknowledgement.
    pub pause: Duration,
}

impl Kill {
    /// A victim that led groups, and died with too little of them in flight.
    pub fn missed(&self) -> Option<&Victim> {
        let idle = |victim: &&Victim| !victim.groups.is_empty() && victim.in_flight < IN_FLIGHT_MIN;
        self.victims.iter().find(idle)
    }
}

/// The figures of a run.
#[derive(Debug)]
pub struct Summary {
    victims: usize,
    leaders: usize,
    at_once: usize,
    in_flight: Vec<u64>,
    pauses: Vec<Duration>,
}

/// Sums up a run.
///
/// # Errors
///
/// Why it proves nothing.
pub fn judge(kills: &[Kill]) -> Result<Summary, String> {
    let victims: Vec<&Victim> = kills.iter().flat_map(|kill| &kill.victims).collect();
    let leaders: Vec<&&Victim> = victims.iter().filter(|v| !v.groups.is_empty()).collect();
    if leaders.is_empty() || leaders.len() * 2 < victims.len() {
        return Err(format!("{} of {} victims led groups", leaders.len(), victims.len()));
    }
    if leaders.len() == victims.len() {
        return Err("no follower was killed".to_owned());
    }
    if let Some(idle) = kills.iter().find_map(Kill::missed) {
        return Err(format!("too little was in flight: {idle:?}"));
    }
    let at_once = kills.iter().filter(|kill| {
        let nodes: BTreeSet<u32> = kill.victims.iter().map(|victim| victim.node).collect();
        nodes.len() > 1
    });
    let mut in_flight: Vec<u64> = leaders.iter().map(|victim| victim.in_flight).collect();
    let mut pauses: Vec<Duration> = kills.iter().map(|kill| kill.pause).collect();
    in_flight.sort_unstable();
    pauses.sort_unstable();
    Ok(Summary {
        victims: victims.len(),
        leaders: leaders.len(),
        at_once: at_once.count(),
        in_flight,
        pauses,
    })
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Victim { node, groups, in_flight } in &self.victims {
            match groups.is_empty() {
                true => write!(f, "node {node}, which led nothing; ")?,
                false => write!(f, "node {node}, which led {groups:?}, {in_flight} in flight; ")?,
            }
        }
        write!(f, "longest wait {:.2} s", self.pause.as_secs_f64())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { victims, leaders, at_once, in_flight, pauses } = self;
        let seconds = |pause: &Duration| pause.as_secs_f64();
        write!(
            f,
            "{} cycles, {at_once} of several nodes at once; {leaders} of {victims} victims led groups, with {} to {} \
             appends in flight (median {}); longest wait for an acknowledgement {:.2} s (median {:.2})",
            pauses.len(),
            in_flight[0],
            in_flight[in_flight.len() - 1],
            in_flight[in_flight.len() / 2],
            seconds(&pauses[pauses.len() - 1]),
            seconds(&pauses[pauses.len() / 2]),
        )
    }
}

#[test]
fn a_run_whose_kills_miss_proves_nothing() {
    let victim = |led: &[u64], in_flight| Victim {
        node: 1,
        groups: led.iter().copied().collect(),
        in_flight,
    };
    let kill =
        |victims: &[Victim]| Kill { victims: victims.to_vec(), pause: Duration::from_secs(1) };
    let (leader, idle) = (kill(&[victim(&[1, 2], 100)]), kill(&[victim(&[1], 99)]));
    let follower = kill(&[victim(&[], 0)]);
    let judged = |kills: &[&Kill]| judge(&kills.iter().copied().cloned().collect::<Vec<_>>());

    assert!(judged(&[&leader, &follower]).is_ok());
    assert!(judged(&[]).is_err(), "nobody was killed");
    assert!(judged(&[&follower]).is_err(), "nobody led");
    assert!(judged(&[&leader]).is_err(), "nobody followed");
    assert!(judged(&[&leader, &follower, &follower]).is_err(), "too few led");
    assert!(judged(&[&leader, &idle, &follower]).is_err(), "too little in flight");
}
