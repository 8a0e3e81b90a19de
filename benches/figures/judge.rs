//! What a row says of a case, and of other systems beside it.

use crate::cases::{Case, Figure};
use crate::peers::{Beside, Measure, Peers};

impl Figure {
    /// What was reached, with what PEERS.md has of it.
    pub fn shown(&self, case: &Case, peers: &Peers) -> String {
        let share = |demand: &Beside| {
            let what = match demand.of {
                Measure::Rate => "rate",
                Measure::Quickness => "quickness",
            };
            let share =
                peers.share(demand).map_or("–".to_owned(), |share| format!("{share:.2} ×"));
            format!("{share} the {what} of {}", demand.system)
        };
        let shown = (self.show)(case);
        if self.beside.is_empty() {
            return shown;
        }
        let shares: Vec<String> = self.beside.iter().map(share).collect();
        format!("{shown}; PEERS.md ({}, {}): {}", peers.date, peers.commit, shares.join(", "))
    }

    /// Behind a verdict: which PEERS.md it is by, where that is not of the commit that was measured.
    pub fn judged_by(&self, peers: &Peers, commit: &str) -> String {
        if self.beside.is_empty() || peers.commit == commit {
            return String::new();
        }
        format!(" (PEERS.md of {})", peers.commit)
    }

    /// Whether the target is met in all that it says.
    pub fn verdict(&self, case: &Case, peers: &Peers) -> &'static str {
        let is_ahead = |demand: &Beside| peers.share(demand).map(|share| share >= demand.at_least);
        let mut verdicts: Vec<Option<bool>> = self.beside.iter().map(is_ahead).collect();
        if self.beside.is_empty() || (self.met)(case).is_some() {
            verdicts.push((self.met)(case));
        }
        if verdicts.contains(&Some(false)) {
            "no"
        } else if verdicts.contains(&None) {
            "–"
        } else {
            "yes"
        }
    }
}
